"""What a data set is once its layout is read: samples with a label and a side, and a digest that pins them down."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GOOD = "good"
OK = "ok"  # what BTAD calls good
TEST_FRACTION = 0.2  # of the good images, where the data brings no split of its own

Split = Literal["train", "test"]
Layout = Literal["mvtec", "btad", "ksdd2", "good_bad", "csv", "flat"]


class DataError(ValueError):
    """Data that can't be used as it lies there; the message says where, what was found and what to do."""


@dataclass(frozen=True)
class Sample:
    path: Path
    split: Split
    label: str  # "good", or the type of its defect
    mask: Path | None = None  # defective pixels above 127; None: unknown

    @property
    def is_good(self) -> bool:
        return self.label == GOOD


@dataclass(frozen=True)
class Skipped:
    """Something that looks like data and isn't used; the message says what and why."""

    path: Path
    message: str


@dataclass(frozen=True)
class Dataset:
    """One product's images, sorted by path. `train` is good only; `test` may be empty."""

    root: Path
    layout: Layout
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[Skipped, ...] = ()


def make_dataset(root: Path, layout: Layout, samples: Iterable[Sample], skipped: Iterable[Skipped] = ()) -> Dataset:
    ordered = sorted(samples, key=lambda sample: relative_name(sample.path, root))
    train = tuple(sample for sample in ordered if sample.split == "train")
    return Dataset(root, layout, train, tuple(sample for sample in ordered if sample.split == "test"), tuple(skipped))


def digest(dataset: Dataset) -> str:
    """SHA-256, in hex, over each sample's split, label, relative path and bytes, and those of its mask.

    Where the folder lies doesn't count, nor does the order of the files. Raises DataError where one can't be read.
    """

    return content_digest(dataset.root, (([s.split, s.label], (s.path, s.mask)) for s in dataset.train + dataset.test))


def content_digest(root: Path, entries: Iterable[tuple[list[str], tuple[Path | None, ...]]]) -> str:
    """SHA-256 of words and files, each file by its path below the root and its bytes, in whatever order they come."""

    def describe(entry: tuple[list[str], tuple[Path | None, ...]]) -> str:
        parts, paths = list(entry[0]), entry[1]
        for path in paths:
            parts += [relative_name(path, root), file_digest(path)] if path else ["", ""]
        return "\t".join(parts)

    try:
        with ThreadPoolExecutor() as pool:
            lines = sorted(pool.map(describe, entries))
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or root)} can't be read ({error.strerror}). Was it moved or deleted?"
        ) from error
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def split_by_content(paths: Iterable[Path]) -> dict[Path, Split]:
    """A fifth of the good images, chosen by the hash of their bytes, is kept for the test.

    So an image stays on its side when it is renamed and when others are added, and copies stay together. Where the
    hash would choose none of two or more, the lowest is taken.
    """

    def content(path: Path) -> str:
        try:
            return file_digest(path)
        except OSError:  # the check of the data names this file; here it only has to land somewhere
            return hashlib.sha256(os.fsencode(path.name)).hexdigest()

    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        contents = dict(zip(paths, pool.map(content, paths), strict=True))
    test = {path for path in paths if int(contents[path][:8], 16) < TEST_FRACTION * 16**8}
    if not test and len(set(contents.values())) > 1:
        lowest = min(contents.values())
        test = {path for path in paths if contents[path] == lowest}
    return {path: "test" if path in test else "train" for path in paths}


def file_digest(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))  # a pipe would keep us waiting
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_name(path: Path, root: Path) -> str:
    """The path below the root, with / between the parts, the same after a copy to another system."""
    relative = Path(os.path.relpath(os.path.abspath(path), os.path.abspath(root)))  # noqa: PTH100 (resolve follows links)
    return composed(relative.as_posix())


def composed(name: str) -> str:
    """One of the two ways in which Unicode writes ü; some systems change the one into the other when they copy."""
    return unicodedata.normalize("NFC", name)


def shown(path: Path | str) -> str:
    """A path as one printable line, whatever its bytes are."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
