"""KolektorSDD2 for a generator: its training defects are there to be learned from, its test pictures are held out."""

from __future__ import annotations

from pathlib import Path

from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.few_shot import few_of
from train.data.ksdd2 import DEFECT, read_pairs
from train.data.samples import GOOD, Skipped, shown


def open_defect_pairs(folder: Path, train: Path, *, defects_per_type: int | None, seed: int) -> DefectSet:
    """The published split. Of train/'s defective pictures `defects_per_type` are trained on, and the others not used.

    None or 0: all of them. Reads every mask. DataError as `read_pairs`, and where train/ has fewer.
    """
    pairs = read_pairs(folder, train)
    defective = [path for path, (label, _) in pairs.train.items() if label != GOOD]
    count = defects_per_type or len(defective)
    given = few_of(defective, count, seed, label=DEFECT, where=train, without="all of them are taken")
    samples, skipped = [], list(pairs.skipped)
    for path, (label, mask) in pairs.train.items():
        if label == GOOD or path in given:
            samples.append(DefectSample(path, _categories(label), mask, "train"))
    samples += [DefectSample(path, _categories(label), mask, "test") for path, (label, mask) in pairs.test.items()]
    if left := [path for path in defective if path not in given]:
        which = "1 defective picture is" if len(left) == 1 else f"{len(left)} defective pictures are"
        skipped.append(
            Skipped(
                left[0],
                f"{shown(train)}: {which} not used, {shown(left[0].name)} for one: {len(given)} are trained on, and "
                "those in test are tested on.",
            )
        )
    return make_defect_set(folder, "ksdd2", samples, exclusive=True, skipped=skipped)


def _categories(label: str) -> tuple[str, ...]:
    return () if label == GOOD else (label,)
