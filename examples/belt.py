"""The parts that the demo's camera sees, in a mixed order as they come down a line: copies, in one folder."""

import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_agent.preprocess import read_image
from train.data.folder import Dataset

MOST = 60  # parts
HELD_OUT, STAINED = "held_out", "stained"  # what they are called where the images are good ones only

Part = tuple[Path, str]  # an image and what is known of it: good, or its type of defect


def fill_belt(folder: Path, dataset: Dataset, run: Path, *, most: int = MOST, seed: int = 0) -> dict[str, str]:
    """Copies at most `most` parts into a new folder as 001-LABEL-NAME; returns what is known of each by its new name.

    They are test images. Where there are none, they are the run's held-out good images, and the same ones again with a
    stain drawn on each.
    """
    folder.mkdir(parents=True)
    if dataset.test:
        parts = list(_fair_share([(sample.path, sample.label) for sample in dataset.test], most, seed))
    else:
        parts = [*_held_out(dataset, run, most // 2)]
    random.Random(seed).shuffle(parts)
    known = {}
    for number, (path, label) in enumerate(parts, start=1):
        stained = not dataset.test and label == STAINED
        suffix = ".png" if stained else path.suffix
        name = re.sub(r"[^\w.-]+", "_", f"{number:03d}-{label}-{path.stem}{suffix}")
        if stained:
            _write_stained(path, folder / name, seed=number)
        else:
            shutil.copyfile(path, folder / name)
        known[name] = label
    return known


def _fair_share(parts: Iterable[Part], most: int, seed: int) -> Iterator[Part]:
    """Up to `most` parts, label by label in turn, so that a rare defect is not left out."""
    by_label = defaultdict(list)
    for path, label in parts:
        by_label[label].append((path, label))
    draw = random.Random(seed)
    for group in by_label.values():
        draw.shuffle(group)
    given = 0
    while given < most and any(by_label.values()):
        for group in by_label.values():
            if group and given < most:
                given += 1
                yield group.pop()


def _held_out(dataset: Dataset, run: Path, most: int) -> Iterator[Part]:
    names = json.loads((run / "split.json").read_text())["held_out"][:most]
    for name in names:
        yield dataset.root / name, HELD_OUT
        yield dataset.root / name, STAINED


def _write_stained(source: Path, target: Path, seed: int) -> None:
    """The image with one of AESc's stains on it, at its own size."""
    import cv2
    import jax
    import numpy as np

    from train.data.noise import corrupt

    image = np.asarray(read_image(source), np.float32)[None] / 255
    stained = np.asarray(corrupt(jax.random.key(seed), jax.numpy.asarray(image), "stain")[0])
    pixels = np.rint(stained * 255).astype(np.uint8)
    target.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
