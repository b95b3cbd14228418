"""Test images that a generator was trained on: left out where a detector is judged, for it may have learned of them.

Three ways lead to a generator's split.json: a run remembers the generator whose defects it was trained or its threshold
fitted with; `evaluate --generator` names one; and a folder that `train synthesize` wrote carries a copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.data.check import Finding
from train.data.defect_split import SPLIT_FILE, TrainedOn, read_split
from train.data.samples import Dataset, Sample, shown
from train.durable import write_text

REMEMBERED = "generator_split.json"  # in a detector's run folder


@dataclass(frozen=True)
class Known:
    """A data set without the test images that generators were trained on."""

    dataset: Dataset
    left_out: tuple[Sample, ...]
    source: Path | None = None  # the split.json of the first of them

    def sentence(self) -> str:
        """For people; empty where nothing was left out."""
        count = len(self.left_out)
        if not count:
            return ""
        which = "test image is" if count == 1 else "test images are"
        return (
            f"{count} {which} left out, for a generator whose defects were used was trained on "
            f"{'it' if count == 1 else 'them'}, {shown(self.left_out[0].path)} for one ({shown(self.source or '')})."
        )

    def finding(self) -> Finding | None:
        """The same as a warning of the data's check."""
        return Finding("warning", self.left_out[0].path, self.sentence(), "generator-leak") if self.left_out else None


def remember(source: Path, run: Path) -> None:
    """Notes in a run folder what the generator of `source` was trained on; `source` is a folder that it drew.

    A folder without a split.json, which no generator wrote, leaves nothing to remember. DataError for a damaged one.
    """
    if not (source / SPLIT_FILE).exists():
        return
    file = run / REMEMBERED
    trained_on = {f"{name} {digest[:8]}": digest for digest, name in read_split(source).names.items()}
    if file.exists():  # of another generator, perhaps, whose images may have the same names
        trained_on |= {name: digest for digest, name in read_split(file).names.items()}
    write_text(file, json.dumps({"trained_on": trained_on}, indent=2) + "\n")


def splits_of(run: Path | None, named: Iterable[Path] = ()) -> list[TrainedOn]:
    """Those that a detector's run remembers, and those that a user names. DataError for one that can't be read."""
    remembered = [run / REMEMBERED] if run is not None and (run / REMEMBERED).exists() else []
    return [read_split(path) for path in (*remembered, *named)]


def leave_out(dataset: Dataset, splits: Sequence[TrainedOn]) -> Known:
    """Test images are known by their bytes, wherever they lie."""
    known = {sample: split.source for sample in dataset.test for split in splits if split.knows(sample.path)}
    left_out = tuple(sample for sample in dataset.test if sample in known)
    kept = replace(dataset, test=tuple(sample for sample in dataset.test if sample not in known))
    return Known(kept, left_out, known[left_out[0]] if left_out else None)
