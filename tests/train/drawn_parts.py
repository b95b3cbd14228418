"""Grey parts with a bright spot or a dark line, and masks of them, as MVTec AD lies: drawn anew for every test."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

NORMAL = "good"


def draw_parts(folder: Path, side: int, train: int, test: Mapping[str, int], spot: int, line: int) -> Path:
    """`train` good images of `side` pixels, and so many of each folder of `test`: good, `line`, or another with a spot.

    A spot is a square of `spot` pixels, a line is `line` wide and ends `side` / 8 before the frame.
    """
    rng = np.random.default_rng(0)
    for name, count in ((f"train/{NORMAL}", train), *((f"test/{kind}", count) for kind, count in test.items())):
        for number in range(count):
            image = rng.integers(90, 130, (side, side, 3), np.uint8)
            mask = np.zeros((side, side), np.uint8)
            x, y = rng.integers(side // 8, 3 * side // 4, 2)
            if name == "test/line":
                mask[side // 8 : side - side // 8, x : x + line] = 255
                image[mask > 0] = 5
            elif not name.endswith(NORMAL):
                mask[y : y + spot, x : x + spot] = 255
                image[mask > 0] = 250
            _write(folder / name / f"{number:03}.png", image)
            if mask.any():
                _write(folder / name.replace("test", "ground_truth") / f"{number:03}_mask.png", mask)
    return folder


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
