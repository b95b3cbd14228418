"""Folders of images to be compared: what lies in them, by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from edge_agent.preprocess import Preprocessing, read_image
from train.data import walk
from train.data.batches import load_images
from train.data.samples import DataError, shown
from train.progress import Work

NOT_IMAGES = frozenset({"ground_truth", "soft_masks", "regions"})  # masks beside images; train/synthesis writes them
SYNTHESIS, BACKGROUNDS = "synthesis.json", ("train", "good")  # of a folder that `synthesize` wrote
NO_CLASS = ""


@dataclass(frozen=True)
class ImageSet:
    """Images below a folder; the class of one is the name of the folder that it lies in."""

    root: Path
    by_class: Mapping[str, tuple[Path, ...]]

    @property
    def count(self) -> int:
        return sum(map(len, self.by_class.values()))

    def only(self, classes: Sequence[str]) -> "ImageSet":
        return ImageSet(self.root, {name: self.by_class[name] for name in classes})


def open_image_set(folder: Path) -> ImageSet:
    """All images below the folder but masks, and but the real ones that a synthesis painted on. None is decoded.

    Raises:
        DataError: it is not there or holds none.
    """
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"{shown(folder)} {found}. Name a folder of images.{walk.near_miss(folder)}")
    by_class: dict[str, list[Path]] = {}
    restored = (folder / "soft_masks" / "good").is_dir()
    left_out = BACKGROUNDS if (folder / SYNTHESIS).exists() and not restored else None
    for path in walk.images(folder):
        above = path.relative_to(folder).parts[:-1]
        if not NOT_IMAGES.intersection(above) and above != left_out:
            by_class.setdefault(above[-1] if above else NO_CLASS, []).append(path)
    if not by_class:
        raise DataError(f"{shown(folder)} holds no image. Name a folder of {walk.READABLE} files.")
    return ImageSet(folder, {name: tuple(by_class[name]) for name in sorted(by_class)})


def comparable(real: ImageSet, generated: ImageSet) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Both, and a line for what is left out: where both have classes, what only one of them has.

    Raises:
        DataError: they are one folder, or have no class in common.
    """
    if real.root.resolve() == generated.root.resolve():
        raise DataError(f"{shown(real.root)} can't be compared with itself. Name the generated images' folder second.")
    if NO_CLASS in real.by_class or NO_CLASS in generated.by_class:
        return _merged(real), _merged(generated), ()
    common = [name for name in real.by_class if name in generated.by_class]
    if not common:
        if len(real.by_class) == len(generated.by_class) == 1:
            return _merged(real), _merged(generated), ()
        raise DataError(
            f"{shown(real.root)} holds {walk.listed(real.by_class)} and {shown(generated.root)} "
            f"{walk.listed(generated.by_class)}: no class is in both. Name folders whose subfolders have equal names."
        )
    notes = []
    for images in (real, generated):
        if missing := [name for name in images.by_class if name not in common]:
            notes.append(f"{walk.listed(missing)} of {shown(images.root)} left out: the other folder has none of them.")
    return real.only(common), generated.only(common), tuple(notes)


def _merged(images: ImageSet) -> ImageSet:
    return ImageSet(images.root, {NO_CLASS: tuple(path for paths in images.by_class.values() for path in paths)})


def side_of(images: ImageSet) -> int:
    """The shorter side of the first image, pixels."""
    first = next(iter(images.by_class.values()))[0]
    height, width = read_image(first).shape[:2]
    return int(min(height, width))


def load(images: ImageSet, size: int) -> dict[str, UInt8[np.ndarray, "_n size size 3"]]:
    """By class, each image scaled to a square."""
    with Work("reading images", images.count) as work:
        return {
            name: load_images(list(paths), Preprocessing(width=size, height=size), work.done)
            for name, paths in images.by_class.items()
        }
