"""A CSV table for a generator: an image may show defects of several categories at once.

path,label[,split][,mask]            one category each, or good
path,labels[,split][,mask]           several, joined by |: crack|rust; or good
path,crack,rust,...[,split][,mask]   a column of 0 and 1 for each category; good where all are 0
"""

from __future__ import annotations

from pathlib import Path

from train.data.defect_folders import NORMAL, hold_out_a_fifth
from train.data.defect_set import DefectSample, DefectSet, make_defect_set
from train.data.samples import DataError, Split, shown
from train.data.table import columns_of, read_rows

BETWEEN = "|"


def open_defect_table(path: Path) -> DefectSet:
    """Without a column split, a fifth of each class, chosen by content, is held out.

    Raises DataError with what is wrong, and the image's path.
    """
    columns = columns_of(path)
    named = next((name for name in ("labels", "label") if name in columns), None)
    marked = [] if named else [name for name in columns if name not in ("path", "split", "mask")]
    if not named and not marked:
        raise DataError(
            f"{shown(path)} line 1: no column says what an image shows. Write path,label there; path,labels where an "
            f"image may show several defects, joined by {BETWEEN}; or a column of 0 and 1 for each."
        )
    samples, rows = [], read_rows(path, ("path", named) if named else ("path", *marked))
    for row in rows:
        categories = _named(path, row, named) if named else _marked(path, row, marked)
        mask = path.parent / row["mask"] if row.get("mask") else None
        split: Split = "test" if row.get("split") == "test" else "train"
        samples.append(DefectSample(path.parent / row["path"], categories, mask, split))
    if "split" not in columns:
        samples = hold_out_a_fifth(samples)
    return make_defect_set(path.parent, "table", samples, exclusive=named == "label")


def _named(table: Path, row: dict[str, str], column: str) -> tuple[str, ...]:
    cell = row[column]
    names = [name.strip() for name in cell.split(BETWEEN)] if column == "labels" else [cell]
    if not all(names):
        raise DataError(
            f"{shown(table)}: {shown(row['path'])} has the labels {shown(cell)}. Write a name between each |."
        )
    normal = [name for name in names if name.lower() in NORMAL]
    if normal and len(names) > 1:
        raise DataError(
            f"{shown(table)}: {shown(row['path'])} is {shown(cell)}, normal and defective at once. Take one away."
        )
    return () if normal else tuple(sorted(set(names)))


def _marked(table: Path, row: dict[str, str], columns: list[str]) -> tuple[str, ...]:
    for column in columns:
        if row[column] not in ("0", "1"):
            raise DataError(
                f"{shown(table)}: {shown(row['path'])} has {shown(row[column])} in the column {shown(column)}. Every "
                "column but path, split and mask is a category, 1 where the image shows it and 0 where not."
            )
    return tuple(sorted(column for column in columns if row[column] == "1" and column not in NORMAL))
