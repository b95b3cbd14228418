"""A folder of images to samples: which are good, which are defective, what is trained on.

Six layouts are recognised, by names alone: MVTec AD, BTAD, KolektorSDD2 (`ksdd2.py`), good/ + bad/, a CSV table
(`table.py`), and good images only. docs/data.md shows a tree of each. What belongs to no layout is refused with a
sentence, never guessed at.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from train.data import walk
from train.data.categories import is_category
from train.data.cifar10 import say_unpack
from train.data.ksdd2 import holds_pairs, open_ksdd2
from train.data.match_masks import match_masks
from train.data.samples import (
    GOOD,
    OK,
    DataError,
    Dataset,
    Sample,
    Skipped,
    digest,
    make_dataset,
    shown,
    split_by_content,
)
from train.data.synthetic import BESIDE, is_synthetic
from train.data.table import is_table, open_table

MASKS = "ground_truth"
UNCERTAIN = "uncertain"  # beside good/: frames that the line's agent kept for a person to judge

__all__ = ["DataError", "Dataset", "Sample", "Skipped", "digest", "open_dataset"]


def open_dataset(folder: Path) -> Dataset:
    """Recognise the layout of a folder, or of a .csv file, and list its samples. No image is decoded, but for the
    masks of KolektorSDD2, which alone say what is good.

    Raises DataError for what is missing, empty, of no known layout or of two at once.
    """
    try:
        if not folder.exists():
            raise walk.does_not_exist(folder)
        if folder.is_file():
            if folder.suffix.lower() != ".csv":
                raise DataError(
                    f"{shown(folder)} is a file. Give the folder that holds the images, or a .csv file that lists them."
                )
            return open_table(folder)
        children = walk.visible(folder)
        tables = [child for child in children if child.suffix.lower() == ".csv" and is_table(child)]
        train, good = walk.child(folder, "train"), walk.child(folder, GOOD)
        found = [f"{shown(part.name)}{'/' if part.is_dir() else ''}" for part in (train, good, *tables) if part]
        if len(found) > 1:
            raise DataError(
                f"{shown(folder)} could be read in {len(found)} ways, for it holds {' and '.join(found)}. "
                f"Move all but one away{', or give the .csv file itself' if tables else ''}."
            )
        if tables:
            return open_table(tables[0])
        if train and holds_pairs(train):
            return open_ksdd2(folder, train)
        if train or is_synthetic(folder):
            return _open_mvtec(folder, train)
        if good:
            return _open_good_bad(folder, good)
        return _open_flat(folder, children)
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or folder)} can't be read ({error.strerror}). Check that it exists and may be read."
        ) from error


def _open_mvtec(folder: Path, train: Path | None) -> Dataset:
    """MVTec AD, or BTAD, which differs by its words: ok for good, and ko for the one type of defect.

    What `train synthesize` wrote may lack train/, where it started from test images only.
    """
    if train is None:
        samples, skipped = _test_of_mvtec(folder, GOOD)
        return make_dataset(folder, "mvtec", samples, skipped)
    good, ok = walk.child(train, GOOD), walk.child(train, OK)
    if good and ok:
        raise DataError(
            f"{shown(train)} holds {shown(good.name)}/ (as MVTec AD) and {shown(ok.name)}/ (as BTAD). "
            "Make one folder of them."
        )
    word, good = (OK, ok) if ok else (GOOD, good)
    if good is None:
        inside = walk.subfolders(train)
        raise DataError(
            f"{shown(train)} has no folder good/"
            + (f" (it holds {walk.listed(path.name for path in inside)})" if inside else "")
            + ". A detector learns from good parts only: put their images in train/good."
        )
    samples = [Sample(path, "train", GOOD) for path in walk.images_or_error(good, "training images")]
    others = [path for path in walk.holding_images(train) if path != good]
    skipped = walk.unused(others, f"a detector learns from train/{word} only")
    skipped += walk.loose(train, f"in train/{word}")

    tests, unplaced = _test_of_mvtec(folder, word)
    skipped += unplaced
    beside = [path for path in walk.holding_images(folder) if path.name.lower() not in ("train", "test", MASKS)]
    if is_synthetic(folder):
        beside = [path for path in beside if path.name not in BESIDE]
    skipped += walk.unused(beside, "only train, test and ground_truth are")
    skipped += walk.loose(folder, f"in train/{word} or under test")
    return make_dataset(folder, "btad" if ok else "mvtec", samples + tests, skipped)


def _test_of_mvtec(folder: Path, word: str) -> tuple[list[Sample], list[Skipped]]:
    """The images under test/; `word` is what good parts are called."""
    test, ground_truth = walk.child(folder, "test"), walk.child(folder, MASKS)
    if test is None:
        return [], match_masks(folder, [], ground_truth)[1]
    other = OK if word == GOOD else GOOD
    if wrong := walk.child(test, other):  # as a type of defect it would turn every figure round
        raise DataError(
            f"{shown(wrong)} can't be told good or defective, for good parts are called {word} in "
            f"{shown(folder / 'train')}. Rename it to {word}, or to its type of defect."
        )
    images = {label_folder: walk.images(label_folder) for label_folder in walk.subfolders(test)}
    masks, orphans = match_masks(test, [path for paths in images.values() for path in paths], ground_truth)
    tests = []
    for label_folder, paths in images.items():
        label = GOOD if label_folder.name.lower() == word else label_folder.name
        tests += [Sample(path, "test", label, masks.get(path)) for path in paths]
    return tests, walk.loose(test, f"in test/{word} or in test/<type of defect>") + orphans


def _open_good_bad(folder: Path, good: Path) -> Dataset:
    bad, ground_truth = walk.child(folder, "bad"), walk.child(folder, "ground_truth")
    uncertain = walk.child(folder, UNCERTAIN)
    others = [path for path in walk.holding_images(folder) if path not in (good, bad, ground_truth, uncertain)]
    if others:
        raise DataError(
            f"{shown(folder)} holds {walk.listed(path.name for path in others)} beside good/. Move defective parts "
            f"into bad/ (bad/{shown(others[0].name)}, for one) and all else out of {shown(folder)}."
        )
    loose = walk.loose(folder, "in good or bad")
    if uncertain and walk.images(uncertain):
        loose += walk.unused([uncertain], "look at them, and move each into good/ or bad/")
    images = walk.images_or_error(good, "good images")
    if bad is None:
        return make_dataset(folder, "flat", [Sample(path, "train", GOOD) for path in images], loose)
    splits = split_by_content(images)
    samples = [Sample(path, splits[path], GOOD) for path in images]
    if wrong := walk.child(bad, GOOD):
        raise DataError(f"{shown(wrong)} says that its parts are good and bad. Rename or move it.")
    defective = walk.images(bad)
    masks, orphans = match_masks(bad, defective, ground_truth)
    for path in defective:
        inside = path.relative_to(bad).parts
        samples.append(Sample(path, "test", inside[0] if len(inside) > 1 else "bad", masks.get(path)))
    return make_dataset(folder, "good_bad", samples, loose + orphans)


def _open_flat(folder: Path, children: list[Path]) -> Dataset:
    if said := say_unpack(folder):
        raise DataError(said)
    images = [child for child in children if walk.is_image(child)]
    inside = walk.holding_images(folder)
    known = {path.name.lower() for path in inside} & {"test", "bad", "ground_truth"}
    categories = [path for path in children if path.is_dir() and is_category(path)]
    if categories and not images and not known:
        count = f"{len(categories)} categories" if len(categories) > 1 else "a category"
        raise DataError(
            f"{shown(folder)} holds {count} ({walk.listed(path.name for path in categories)}) and is none itself. "
            f"Give one of them, {shown(categories[0])}; or fit and evaluate all of them: "
            f"python -m train table DETECTOR --data {shown(folder)} --out RUNS"
        )
    if inside:
        meaning = "it has no train/good" if known else "their names don't say which parts are good"
        raise DataError(
            f"{shown(folder)} holds {'images and ' if images else ''}folders of images "
            f"({walk.listed(path.name for path in inside)}), but {meaning}. Put good parts in good/ and defective ones "
            "in bad/, or give a folder of good images only."
        )
    if not images:
        suffixes = Counter(child.suffix.lower() or "no suffix" for child in children if child.is_file())
        found = ", ".join(f"{count} with {shown(suffix)}" for suffix, count in suffixes.most_common(3))
        what = f"holds no images (files: {found})" if found else "is empty" if not children else "holds no images"
        raise DataError(f"{shown(folder)} {what}. Put images of good parts in it, as {walk.READABLE}.")
    return make_dataset(folder, "flat", [Sample(path, "train", GOOD) for path in images])
