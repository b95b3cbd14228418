"""KolektorSDD2: each picture lies beside its mask, and the mask alone says whether the picture is good.

train/10000.png  train/10000_GT.png    test/ likewise. A picture is defective if its mask marks any pixel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edge_agent.preprocess import ImageError, read_mask
from train.data import walk
from train.data.samples import GOOD, OK, DataError, Dataset, Sample, Skipped, composed, make_dataset, shown

MASK_ENDING = "_gt"  # of a mask's stem, in upper or lower case
DEFECT = "defect"  # the only type there is


def holds_pairs(train: Path) -> bool:
    """Whether a folder train/ is KolektorSDD2's: no good/ or ok/, but masks beside their pictures."""
    if walk.child(train, GOOD) or walk.child(train, OK):
        return False
    return any(_is_mask(path) for path in walk.visible(train) if walk.is_image(path))


@dataclass(frozen=True)
class Pairs:
    """Label and mask of each picture; of a good one, which its mask only says is good, the mask is None."""

    train: Mapping[Path, tuple[str, Path | None]]
    test: Mapping[Path, tuple[str, Path | None]]
    skipped: tuple[Skipped, ...]


def read_pairs(folder: Path, train: Path) -> Pairs:
    """Reads every mask, for the labels.

    Raises:
        DataError: a picture's mask is missing or can't be read, or no training picture is good.
    """
    test = walk.child(folder, "test")
    (train_pictures, skipped), (test_pictures, more) = _labelled(train), _labelled(test) if test else ({}, [])
    if all(label != GOOD for label, _ in train_pictures.values()):
        raise DataError(
            f"Each of the {len(train_pictures)} masks in {shown(train)} marks a defect, so there is no good part to "
            "learn from. Are the masks inverted? Defects are white, the rest is black."
        )
    others = [path for path in walk.holding_images(folder) if path not in (train, test)]
    skipped += more + walk.unused(others, "only train and test are")
    skipped += walk.loose(folder, "in train or in test")
    return Pairs(train_pictures, test_pictures, tuple(skipped))


def open_ksdd2(folder: Path, train: Path) -> Dataset:
    """For a detector. DataError as `read_pairs`."""
    pairs, skipped = read_pairs(folder, train), []
    samples = [Sample(path, "train", GOOD) for path, (label, _) in pairs.train.items() if label == GOOD]
    if defective := [path for path, (label, _) in pairs.train.items() if label != GOOD]:
        count = f"{len(defective)} of {len(pairs.train)} training pictures show"
        if len(defective) == 1:
            count = f"1 of {len(pairs.train)} training pictures shows"
        skipped.append(
            Skipped(
                defective[0],
                f"{shown(train)}: {count} a defect by their masks, {shown(defective[0].name)} for one, and are left "
                "out: a detector learns from good parts only.",
            )
        )
    samples += [Sample(path, "test", label, mask) for path, (label, mask) in pairs.test.items()]
    return make_dataset(folder, "ksdd2", samples, (*skipped, *pairs.skipped))


def _labelled(side: Path) -> tuple[dict[Path, tuple[str, Path | None]], list[Skipped]]:
    """Label and mask (of defective pictures) of each picture of train/ or test/, and what isn't used."""
    files = [path for path in walk.visible(side) if walk.is_image(path)]
    masks = {composed(path.stem).lower()[: -len(MASK_ENDING)]: path for path in files if _is_mask(path)}
    pictures = [path for path in files if not _is_mask(path)]
    if lacking := [path for path in pictures if composed(path.stem).lower() not in masks]:
        others = f" (nor have {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise DataError(
            f"{shown(lacking[0])} has no mask {shown(lacking[0].stem)}_GT.png beside it{others}, so it can't be told "
            "good or defective. Copy the mask there (a black one for a good part), or delete the picture."
        )
    mask_of = {path: masks[composed(path.stem).lower()] for path in pictures}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        marked = list(pool.map(_marks_any, mask_of.values()))
    labelled: dict[Path, tuple[str, Path | None]] = {
        path: (DEFECT, mask) if marks else (GOOD, None)
        for (path, mask), marks in zip(mask_of.items(), marked, strict=True)
    }
    skipped = walk.unused(walk.holding_images(side), f"only the pictures in {shown(side.name)} itself are")
    if orphans := sorted(set(masks.values()) - set(mask_of.values())):
        which = "is a mask without a picture" if len(orphans) == 1 else f"and {len(orphans) - 1} more masks lack"
        which += "" if len(orphans) == 1 else " their pictures"
        skipped.append(Skipped(orphans[0], f"{shown(orphans[0])} {which}. Copy the set again."))
    return labelled, skipped


def _is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(MASK_ENDING)


def _marks_any(mask: Path) -> bool:
    try:
        return bool(read_mask(mask).any())
    except ImageError as error:
        raise DataError(f"{shown(str(error))} Without it, its picture can't be told good or defective.") from error
