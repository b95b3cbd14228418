"""The drawn product line: the data set that the demo, the tests and the benchmarks share, made by code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from train.data.drawn_defects import DEFECTS
from train.data.drawn_parts import Defect, draw_part
from train.data.samples import DataError, shown

SMALLEST, LARGEST = 32, 4096  # pixels; below, a scratch is no wider than the noise
_TRAIN, _TEST_GOOD, _FIRST_DEFECT = 0, 1, 2  # the second part of a part's key


def draw_product_line(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 256,
    train: int = 60,
    test_good: int = 20,
    defects_per_type: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Machined flanges in the MVTec AD layout, size x size RGB PNGs, with masks: good, and one folder per defect.

    Part number n of a kind depends on the seed, the size and n alone, so a larger line begins with the smaller one;
    with the same versions of NumPy and OpenCV the files are the same byte for byte. Plain and subtle defects alternate.
    `progress(done, total)` is called after each part. Raises DataError for a folder that holds something, numbers that
    make no sense, or a disk that can't take it; nothing half-drawn is left behind.
    """
    for name, value, least, most in (
        ("seed", seed, 0, 2**63 - 1),
        ("size", size, SMALLEST, LARGEST),
        ("train", train, 1, 100_000),
        ("test_good", test_good, 0, 100_000),
        ("defects_per_type", defects_per_type, 0, 100_000),
    ):
        if not least <= value <= most:
            raise DataError(f"{name} is {value}. Give a whole number from {least} to {most}.")
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is not empty" if folder.is_dir() else "is a file"
            raise DataError(f"{shown(folder)} {what}. Give a new folder to draw into, or delete this one first.")
        try:
            parts = list(_parts(seed, train, test_good, defects_per_type))
            for done, part in enumerate(parts, start=1):
                _write(partial, *part, size)
                if progress:
                    progress(done, len(parts))
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{shown(folder)} can't be written ({error.strerror}). Check the path and the space that is left."
        ) from error


def _parts(
    seed: int, train: int, test_good: int, per_type: int
) -> Iterator[tuple[Path, list[int], Defect | None, float]]:
    """Where each part's picture goes, its key, and what is wrong with it."""
    for n in range(train):
        yield Path("train", "good", f"{n:03d}.png"), [seed, _TRAIN, n], None, 0.0
    for n in range(test_good):
        yield Path("test", "good", f"{n:03d}.png"), [seed, _TEST_GOOD, n], None, 0.0
    for kind, (label, defect) in enumerate(DEFECTS.items(), start=_FIRST_DEFECT):
        for n in range(per_type):
            yield Path("test", label, f"{n:03d}.png"), [seed, kind, n], defect, _strength(n)


def _strength(n: int) -> float:
    """From 1.0 down to 0.5, the numbers of any first few spread over all of it (van der Corput's sequence)."""
    fraction, step = 0.0, 0.5
    while n:
        fraction += step * (n & 1)
        n, step = n >> 1, step / 2
    return 1.0 - 0.5 * fraction


def _write(root: Path, name: Path, key: list[int], defect: Defect | None, strength: float, size: int) -> None:
    image, mask = draw_part(key, size, defect, strength)
    _write_png(root / name, image[..., ::-1])
    if defect:
        _write_png(root / "ground_truth" / name.parent.name / f"{name.stem}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes())
