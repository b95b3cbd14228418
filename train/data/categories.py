"""A folder of categories, as benchmarks come: bottle/, grid/, ... each a data set of its own."""

from __future__ import annotations

from pathlib import Path

from train.data import walk
from train.data.cifar10 import say_unpack
from train.data.ksdd2 import holds_pairs
from train.data.samples import GOOD, OK, DataError, Skipped, shown
from train.data.table import is_table


def is_category(folder: Path) -> bool:
    """Whether names alone say that a folder is a data set: train/good, train/ok, train/*_GT, good/, or a CSV table."""
    try:
        if walk.child(folder, GOOD):
            return True
        train = walk.child(folder, "train")
        if train and (walk.child(train, GOOD) or walk.child(train, OK) or holds_pairs(train)):
            return True
    except DataError:  # Good/ and good/, say: a data set with a fault, which opening it will name
        return True
    return any(path.suffix.lower() == ".csv" and is_table(path) for path in walk.visible(folder))


def find_categories(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """The categories of a folder by name, and subfolders of images that are none; a category itself stands alone.

    Raises DataError where there is none.
    """
    try:
        if not folder.exists():
            raise walk.does_not_exist(folder)
        if folder.is_file():
            raise DataError(f"{shown(folder)} is a file. Give the folder that holds the categories.")
        if is_category(folder):
            return [folder], []
        categories = [child for child in walk.subfolders(folder) if is_category(child)]
        if not categories:
            raise DataError(say_unpack(folder) or _nothing_there(folder))
        others = [child for child in walk.holding_images(folder) if child not in categories]
        return categories, walk.unused(others, "that is no category, for it has no train/good")
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or folder)} can't be read ({error.strerror}). Check that it exists and may be read."
        ) from error


def _nothing_there(folder: Path) -> str:
    inside = walk.subfolders(folder)
    holds = f" (it holds {walk.listed(path.name for path in inside)})" if inside else ""
    return (
        f"{shown(folder)} holds no categories{holds}. A category is a folder such as bottle/, with good parts in "
        "bottle/train/good and others under bottle/test; docs/data.md shows every layout."
    )
