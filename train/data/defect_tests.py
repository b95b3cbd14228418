"""Sets made for detectors, whose defects are there to test on: some of each type are given to the generator."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.folder import open_dataset
from train.data.samples import DataError, Dataset, Sample, file_digest, shown


def open_defect_tests(folder: Path, *, defects_per_type: int | None, seed: int) -> DefectSet:
    """MVTec AD, BTAD, KolektorSDD2 and good/ + bad/. Of each type `defects_per_type` are trained on (None: half).

    Which, the seed and the images' bytes decide: a larger number takes more of the same, and copies stay together.
    """
    dataset = open_dataset(folder)
    samples = [DefectSample(s.path, (), None, s.split) for s in dataset.train + dataset.test if s.is_good]
    for label in sorted({sample.label for sample in dataset.test if not sample.is_good}):
        of_type = [sample for sample in dataset.test if sample.label == label]
        given = _given(of_type, dataset, defects_per_type, seed)
        samples += [DefectSample(s.path, (label,), s.mask, "train" if s.path in given else "test") for s in of_type]
    return make_defect_set(dataset.root, dataset.layout, samples, exclusive=True, skipped=dataset.skipped)


def _given(samples: list[Sample], dataset: Dataset, wanted: int | None, seed: int) -> set[Path]:
    """The images of a type that are trained on; at least one is, unless none is wanted."""
    count = max(len(samples) // 2, 1) if wanted is None else wanted
    if count > len(samples):
        raise DataError(
            f"{shown(dataset.root)} has {len(samples)} images of {samples[0].label}, and {count} of each type are to "
            f"be trained on. Give {len(samples)} at most, or leave the number out: half of each type is taken then."
        )
    by_draw: dict[str, list[Path]] = {}
    for sample in samples:
        by_draw.setdefault(hashlib.sha256(f"{seed} {_content(sample.path)}".encode()).hexdigest(), []).append(
            sample.path
        )
    given: set[Path] = set()
    for _, copies in sorted(by_draw.items()):
        if len(given) >= count:
            break
        given.update(copies)
    return given


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # the check of the data names this file; here it only has to land somewhere
        return os.fsdecode(path.name)
