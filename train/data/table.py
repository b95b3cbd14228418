"""A CSV table of images: one line per image, with its label and, if wanted, its split and its mask."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from train.data.samples import GOOD, DataError, Dataset, Sample, Skipped, Split, make_dataset, shown, split_by_content

REQUIRED = ("path", "label")
OPTIONAL = ("split", "mask")


def is_table(path: Path, required: Sequence[str] = REQUIRED) -> bool:
    """Whether a file's first line names the columns path and label, or those asked for."""
    try:
        return set(required) <= set(columns_of(path))
    except (DataError, OSError):
        return False


def columns_of(path: Path) -> list[str]:
    """The first line's cells, in lower case."""
    return _header(_text(path))


def open_table(path: Path) -> Dataset:
    """Header `path,label[,split][,mask]`, paths relative to the table; `label` is good or a type of defect.

    `split` is train or test; without that column a fifth of the good images, chosen by content, and every defective
    one is test. Commas or, as some spreadsheets write, semicolons. Raises DataError with the line that is wrong.
    """
    rows = read_rows(path)
    good = [row for row in rows if row["label"] == GOOD]
    if not good:
        labels = sorted({row["label"] for row in rows})
        raise DataError(
            f"{shown(path)} lists no good part (its labels are {', '.join(map(shown, labels[:5]))}). "
            f"Write {GOOD} as the label of good parts."
        )
    by_content = {} if "split" in rows[0] else split_by_content(path.parent / row["path"] for row in good)
    samples, unused = [], []
    for row in rows:
        image = path.parent / row["path"]
        mask = path.parent / row["mask"] if row.get("mask") else None
        split: Split = by_content.get(image, "test")
        if "split" in row:
            split = "train" if row["split"] == "train" else "test"
        if split == "train" and row["label"] != GOOD:
            unused.append(image)
        else:
            samples.append(Sample(image, split, row["label"], mask))
    if not any(sample.split == "train" for sample in samples):
        raise DataError(f"{shown(path)} lists no good part with split train. Mark some for training.")
    skipped = []
    if unused:
        others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        skipped = [
            Skipped(
                unused[0],
                f"{shown(unused[0])}{others} labelled defective with split train: not used, for a detector learns from "
                "good parts only. Give test as the split to judge them.",
            )
        ]
    return make_dataset(path.parent, "csv", samples, skipped)


def read_rows(path: Path, required: Sequence[str] = REQUIRED, *, repeated: bool = False) -> list[dict[str, str]]:
    """One dict per line, keyed by column in lower case, with label, split and every path proven to make sense.

    `required` columns may not be empty; the first names the image, once unless `repeated`.
    """
    text = _text(path)
    header = _header(text)
    for column in required:
        if column not in header:
            found = ", ".join(map(shown, header)) or "nothing"
            wanted = ",".join(required)
            raise DataError(f"{shown(path)} line 1: there is no column {column}, only {found}. Write {wanted} there.")
    if len(set(header)) < len(header):
        raise DataError(f"{shown(path)} line 1: a column is named twice ({', '.join(map(shown, header))}).")

    rows: list[dict[str, str]] = []
    lines_of: dict[str, int] = {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        next(reader)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                row = _row(path, reader.line_num, header, cells, required)
                image = row[required[0]]
                earlier = lines_of.setdefault(image, reader.line_num)
                if earlier != reader.line_num and not repeated:
                    raise _error(
                        path, reader.line_num, f"{shown(image)} is listed in line {earlier} already. Delete one."
                    )
                rows.append(row)
    except csv.Error as error:
        raise _error(path, reader.line_num, f"this is no CSV ({error}). Save the table again as CSV.") from error
    if not rows:
        raise DataError(f"{shown(path)} lists no images. Write one line per image below the header.")
    return rows


def _row(table: Path, line: int, header: list[str], cells: list[str], required: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise _error(
            table, line, f"{len(cells)} cells, but the header has {len(header)}. Quote cells that hold a comma."
        )
    row = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    for column in required:
        if not row[column]:
            raise _error(table, line, f"the cell {column} is empty.")
    if "label" in row:
        row["label"] = GOOD if row["label"].lower() == GOOD else row["label"]
    if "split" in row:
        row["split"] = row["split"].lower()
        if row["split"] not in ("train", "test"):
            raise _error(table, line, f"split is {shown(row['split']) or 'empty'}. Write train or test.")
    for column in ("path", "mask"):
        if row.get(column):
            row[column] = _existing(table, line, column, row[column])
    return row


def _existing(table: Path, line: int, column: str, name: str) -> str:
    for form in (name, name.replace("\\", "/")):  # the second where the table was written on Windows
        try:
            if (table.parent / form).is_file():
                return form
        except (OSError, ValueError):  # too long, or a NUL byte
            break
    raise _error(
        table, line, f"the {column} {shown(name)} is no file beside the table. Paths start at {shown(table.parent)}."
    )


def _error(table: Path, line: int, what: str) -> DataError:
    return DataError(f"{shown(table)} line {line}: {what}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{shown(path)} line {line}: this is not UTF-8. Save the table as CSV UTF-8.") from error


def _header(text: str) -> list[str]:
    lines = text.splitlines()
    if not lines:
        return []
    try:
        cells = next(csv.reader(lines[:1], delimiter=_delimiter(text)))
    except csv.Error:
        return []
    return [cell.strip().lower() for cell in cells]


def _delimiter(text: str) -> str:
    first = text.split("\n", 1)[0]
    return ";" if ";" in first and "," not in first else ","
