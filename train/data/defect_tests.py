"""Sets made for detectors, whose defects are there to test on: some of each type are given to the generator."""

from __future__ import annotations

from pathlib import Path

from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.few_shot import few_of
from train.data.folder import open_dataset


def open_defect_tests(folder: Path, *, defects_per_type: int | None, seed: int) -> DefectSet:
    """MVTec AD, BTAD and good/ + bad/. Of each type `defects_per_type` are trained on (None: half, but one at least).

    Which, the seed and the images' bytes decide: a larger number takes more of the same, and copies stay together.
    """
    dataset = open_dataset(folder)
    samples = [DefectSample(s.path, (), None, s.split) for s in dataset.train + dataset.test if s.is_good]
    for label in sorted({sample.label for sample in dataset.test if not sample.is_good}):
        of_type = [sample for sample in dataset.test if sample.label == label]
        count = max(len(of_type) // 2, 1) if defects_per_type is None else defects_per_type
        paths = [sample.path for sample in of_type]
        given = few_of(paths, count, seed, label=label, where=dataset.root, without="half of each type is taken")
        samples += [DefectSample(s.path, (label,), s.mask, "train" if s.path in given else "test") for s in of_type]
    return make_defect_set(dataset.root, dataset.layout, samples, exclusive=True, skipped=dataset.skipped)
