"""Which images a generator was trained on, as its run keeps it (split.json), and how they are known again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.defect_set import DefectSample, DefectSet, digest
from train.data.samples import DataError, file_digest, relative_name, shown

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class TrainedOn:
    """The images that a generator has seen, by the SHA-256 of their bytes: wherever they lie now, they are known."""

    source: Path  # the split.json that says so
    names: dict[str, str]  # digest to name below the generator's data folder

    def knows(self, path: Path) -> bool:
        """Whether the generator was trained on this file, under whatever name."""
        try:
            return file_digest(path) in self.names
        except OSError:
            return False  # what can't be read is named by the check of the data


def split_json(defects: DefectSet) -> dict[str, Any]:
    """What fit-generator writes as RUN/split.json: every image by name and digest, on its side.

    Raises DataError where an image can't be read.
    """

    def listed(samples: Iterable[DefectSample]) -> dict[str, str]:
        try:
            return {relative_name(sample.path, defects.root): file_digest(sample.path) for sample in samples}
        except OSError as error:
            raise DataError(f"{shown(error.filename or defects.root)} can't be read ({error.strerror}).") from error

    return {
        "layout": defects.layout,
        "data_digest": digest(defects),
        "categories": list(defects.categories),
        "trained_on": listed(defects.normal + defects.defective),
        "held_out": listed(defects.held_out),
    }


def read_split(path: Path) -> TrainedOn:
    """Of a split.json, or of the folder that holds one: a generator's run, or what it synthesized.

    Raises DataError where there is none, or it is damaged.
    """
    file = path / SPLIT_FILE if path.is_dir() else path
    try:
        trained_on = json.loads(file.read_text())["trained_on"]
        return TrainedOn(file, {str(value): str(name) for name, value in trained_on.items()})
    except OSError as error:
        raise DataError(
            f"{shown(file)} can't be read ({error.strerror}). Name a generator's run, or a folder that "
            "`train synthesize` wrote: its split.json says which images the generator was trained on."
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(
            f"{shown(file)} does not say which images a generator was trained on. Copy it again from the generator's "
            "run."
        ) from None
