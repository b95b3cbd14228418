"""Labelled sets as one-against-the-rest categories: in each of them one class is good and the others are anomalies.

Every image is written once, as PNG, and beside the classes' folders tables that every command reads:

    NAME/images/train/00029.png   the class's own images, numbered as the set gives them
    NAME/images/test/00003.png
    NAME/data.csv                 its training images as good, all test images with the names of their classes
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from train.data import walk
from train.data.samples import GOOD, DataError, Split, shown
from train.durable import write_text

TABLE = "data.csv"


class Categories:
    """Writes images one by one, then the tables, without which no category is one."""

    def __init__(self, out: Path, names: Sequence[str], benchmark: str):
        self._out, self._names = out, tuple(names)
        self.counts: dict[Split, int] = {"train": 0, "test": 0}
        self._rows: dict[Split, list[tuple[str, int]]] = {"train": [], "test": []}
        if out.exists() and not out.is_dir():
            raise DataError(f"{shown(out)} is a file. Give --out a new folder.")
        others = [path.name for path in walk.visible(out) if path.name not in self._names] if out.exists() else []
        if others:
            raise DataError(
                f"{shown(out)} holds {shown(others[0])}, which is none of {benchmark}'s. Give --out a new folder."
            )

    def add(self, image: UInt8[np.ndarray, "h w 3"], label: int, split: Split) -> None:
        place = f"{self._names[label]}/images/{split}/{self.counts[split]:05d}.png"
        write_image(self._out / place, image)
        self._rows[split].append((place, label))
        self.counts[split] += 1

    def finish(self) -> None:
        os.sync()  # one for all images: a flush each would take many times as long as the rest
        for label, name in enumerate(self._names):
            (self._out / name).mkdir(exist_ok=True)
            write_text(self._out / name / TABLE, self._table(label))

    def _table(self, good: int) -> str:
        text = io.StringIO()
        table, rows, names = csv.writer(text, lineterminator="\n"), self._rows, self._names
        table.writerow(("path", "label", "split"))
        table.writerows((f"../{place}", GOOD, "train") for place, label in rows["train"] if label == good)
        table.writerows(
            (f"../{place}", GOOD if label == good else names[label], "test") for place, label in rows["test"]
        )
        return text.getvalue()


def write_image(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Whole or absent; what lies there already is only replaced if it differs."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    whole = data.tobytes()
    if path.exists() and path.read_bytes() == whole:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(whole)
    beside.replace(path)
