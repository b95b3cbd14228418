"""A folder of images to what a generator learns from: normal images, and defects by category.

docs/synthesis.md shows a tree of each layout. What belongs to none is refused with a sentence, never guessed at.
"""

from __future__ import annotations

from pathlib import Path

from train.data import walk
from train.data.codebrim import is_codebrim, open_codebrim
from train.data.defect_folders import classes_of, is_normal, open_class_folders, open_flat_classes
from train.data.defect_pairs import open_defect_pairs
from train.data.defect_set import DefectSample, DefectSet, digest
from train.data.defect_split import split_json
from train.data.defect_table import open_defect_table
from train.data.defect_tests import open_defect_tests
from train.data.ksdd2 import holds_pairs
from train.data.samples import DataError, shown

__all__ = ["DefectSample", "DefectSet", "digest", "open_defects", "open_labelled", "split_json"]


def open_defects(folder: Path, *, defects_per_type: int | None = None, seed: int = 0) -> DefectSet:
    """Recognise the layout of a folder, or of a .csv file, and list its samples. No image is decoded.

    Where defects lie under test/ or bad/ only, `defects_per_type` of each type are trained on (None: half), drawn by
    the seed; the rest is held out. Of KolektorSDD2 so many of train/ are (None: all), and test/ is held out. Elsewhere
    the data's own split holds, and `defects_per_type` is an error.

    Raises DataError for what is missing, empty, or of no known layout.
    """
    if defects_per_type is not None and defects_per_type < 1:
        raise DataError(
            f"defects_per_type is {defects_per_type}. Give 1 or more, or leave it out for half of each type."
        )
    opened, to_be_drawn = _opened(folder, defects_per_type, seed)
    if not opened.categories:
        raise DataError(
            f"{shown(folder)} holds no defect, so there is nothing to learn to draw. Put defective images in a folder "
            "of their kind: test/scratch/ beside train/good/, or train/scratch/."
        )
    if defects_per_type is not None and not to_be_drawn:
        raise DataError(f"{shown(folder)} says itself which images are trained on. Leave defects_per_type out.")
    return opened


def open_labelled(folder: Path) -> DefectSet:
    """The same for a folder that need not hold defects: good images only will do, all to train on.

    Defects that are there to test on stay there.

    Raises DataError as `open_defects` does.
    """
    return _opened(folder, 0, 0)[0]


def _opened(folder: Path, defects_per_type: int | None, seed: int) -> tuple[DefectSet, bool]:
    try:
        return _open(folder, defects_per_type, seed)
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or folder)} can't be read ({error.strerror}). Check that it exists and may be read."
        ) from error


def _open(folder: Path, defects_per_type: int | None, seed: int) -> tuple[DefectSet, bool]:
    """And whether some of its defects may be drawn to train on."""
    if not folder.exists():
        raise walk.does_not_exist(folder)
    if folder.is_file():
        if folder.suffix.lower() != ".csv":
            raise DataError(
                f"{shown(folder)} is a file. Give the folder that holds the images, or a .csv table of them."
            )
        return open_defect_table(folder), False
    if is_codebrim(folder):
        return open_codebrim(folder), False
    if train := walk.child(folder, "train"):
        if holds_pairs(train):
            return open_defect_pairs(folder, train, defects_per_type=defects_per_type, seed=seed), True
        if _has_good_only(train):
            return open_defect_tests(folder, defects_per_type=defects_per_type, seed=seed), True
        if not classes_of(train):
            raise DataError(f"{shown(train)} holds no folders of classes. Make one per kind: good, scratch, dent.")
        return open_class_folders(folder, train), False
    tables = [child for child in walk.visible(folder) if child.suffix.lower() == ".csv"]
    classes = classes_of(folder)
    if not classes and len(tables) == 1:
        return open_defect_table(tables[0]), False
    if walk.child(folder, "bad") and any(map(is_normal, classes)):
        return open_defect_tests(folder, defects_per_type=defects_per_type, seed=seed), True
    if len([child for child in classes if next(iter(walk.images(child)), None)]) > 1:
        return open_flat_classes(folder), False
    return open_defect_tests(folder, defects_per_type=defects_per_type, seed=seed), True  # good images only


def _has_good_only(train: Path) -> bool:
    """As sets made for detectors do: MVTec AD, and BTAD with its ok."""
    names = {child.name.lower() for child in walk.holding_images(train)}
    return names in ({"good"}, {"ok"})
