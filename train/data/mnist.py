"""MNIST's IDX files (and those of sets in its form), plain or gzipped, as ten one-against-the-rest categories."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from train.data import walk
from train.data.one_class import Categories
from train.data.samples import DataError, Split, shown

DIGITS = tuple("0123456789")
FILES: tuple[tuple[str, Split], ...] = (("train", "train"), ("t10k", "test"))
BYTES = 0x08  # the IDX code of unsigned bytes
SAID_EVERY = 1000


def unpack_mnist(
    folder: Path, out: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """IDX files into ten categories at `out`; returns what is worth knowing, a line each.

    Raises DataError for files that are missing, damaged or do not belong together.
    """
    if not folder.is_dir():
        near = "" if folder.exists() else walk.near_miss(folder)
        raise DataError(f"{shown(folder)} is no folder. Give the one that holds MNIST's four IDX files.{near}")
    read = []
    for name, split in FILES:
        images, labels = read_idx(_find(folder, f"{name}-images", 3)), read_idx(_find(folder, f"{name}-labels", 1))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{shown(folder)}: {name} has images of shape {images.shape} and labels of shape {labels.shape}, which "
                "do not belong together. Copy the four files again."
            )
        if (wrong := np.flatnonzero(labels >= len(DIGITS))).size:
            raise DataError(f"{shown(folder)}: {name} gives image {wrong[0]} the label {labels[wrong[0]]}; 0 to 9 are.")
        read.append((split, images, labels))
    categories, total = Categories(out, DIGITS, "MNIST"), sum(len(labels) for _, _, labels in read)
    for split, images, labels in read:
        for image, label in zip(images, labels.tolist(), strict=True):
            categories.add(np.repeat(image[..., None], 3, axis=-1), label, split)
            if (done := sum(categories.counts.values())) % SAID_EVERY == 0 or done == total:
                progress(done, total)
    categories.finish()
    counts = categories.counts
    return [f"{counts['train']} training and {counts['test']} test images, each written once."]


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file: two zeros, a type, the number of axes, their sizes (big-endian), the bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{shown(path)} can't be read: {error}. Copy it again.") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != BYTES:
        raise DataError(f"{shown(path)} is no IDX file of bytes. Give MNIST's files as they are published.")
    axes = data[3]
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes))
    begin = 4 + 4 * axes
    if len(data) - begin != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{shown(path)} says it holds {' x '.join(map(str, shape))} bytes, and holds {len(data) - begin}. "
            "Copy it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _find(folder: Path, stem: str, axes: int) -> Path:
    """train-images-idx3-ubyte as published, with a dot as some copies have it, or gzipped."""
    for separator in ("-", "."):
        for ending in ("", ".gz"):
            path = folder / f"{stem}{separator}idx{axes}-ubyte{ending}"
            if path.is_file():
                return path
    raise DataError(
        f"{shown(folder)} has no {stem}-idx{axes}-ubyte (or .gz). Give the folder that holds MNIST's four IDX files."
    )
