"""CIFAR-10 one-vs-rest: ten categories, in each of which one class is good and the nine others are anomalies.

Trained on the training images of one class, tested on all test images. CIFAR-10 is published as batches of 10,000
images; `unpack` writes each image once (one_class.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from train.data import walk
from train.data.one_class import Categories
from train.data.plain_pickle import read_plain_pickle
from train.data.samples import DataError, Split, shown

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES: tuple[tuple[str, Split], ...] = (
    ("data_batch_1", "train"),
    ("data_batch_2", "train"),
    ("data_batch_3", "train"),
    ("data_batch_4", "train"),
    ("data_batch_5", "train"),
    ("test_batch", "test"),
)
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")  # as the archives name them
SIDE = 32
PIXELS = 3 * SIDE * SIDE
PUBLISHED = 10_000  # images per batch


class Batch(NamedTuple):
    name: str  # of the file
    split: Split
    images: UInt8[np.ndarray, "n 32 32 3"]  # RGB
    labels: UInt8[np.ndarray, " n"]


def say_unpack(folder: Path) -> str | None:
    """The sentence for a folder of batches that was given as if it were a folder of images; None for any other."""
    try:
        found = _batch_folder(folder)
    except DataError:
        return None
    return (
        f"{shown(found[0])} holds CIFAR-10 as batches. Unpack them once into ten categories: "
        f"python -m train unpack cifar10 {shown(found[0])} --out FOLDER"
    )


def unpack_cifar10(
    folder: Path, out: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Batches, binary or Python, into ten categories at `out`; returns what is worth knowing, a line each.

    What an earlier, interrupted call wrote is compared and kept. The tables, without which no category is one, come
    last, when all images are on the disk. Raises DataError for batches that are missing, damaged or of another set.
    """
    source, kind = _batch_folder(folder)
    categories = Categories(out, CLASSES, "CIFAR-10")
    _check_names(source, kind)
    notes = []
    for position, batch in enumerate(_read_all(source, kind)):
        if len(batch.labels) != PUBLISHED:
            notes.append(f"{batch.name} holds {len(batch.labels)} images; the published one has {PUBLISHED}.")
        for done, (image, label) in enumerate(zip(batch.images, batch.labels.tolist(), strict=True), start=1):
            categories.add(image, label, batch.split)
            progress(position * PUBLISHED + done, len(BATCHES) * PUBLISHED)
    categories.finish()
    counts = categories.counts
    return [f"{counts['train']} training and {counts['test']} test images, each written once.", *notes]


def _batch_folder(folder: Path) -> tuple[Path, Literal["binary", "python"]]:
    """The folder that holds the batches, itself or the one that the archive makes, and their version."""
    if not folder.exists():
        raise walk.does_not_exist(folder)
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is a file. Unpack the archive first (tar -xf), then give the folder.")
    for place in (folder, *(folder / name for name in FOLDERS)):
        if any((place / f"{name}.bin").is_file() for name, _ in BATCHES):
            return place, "binary"
        if any((place / name).is_file() for name, _ in BATCHES):
            return place, "python"
    raise DataError(
        f"{shown(folder)} holds no batches of CIFAR-10: neither data_batch_1.bin (binary version) nor data_batch_1 "
        f"(Python version). Give the folder that the archive unpacks to, {' or '.join(FOLDERS)}."
    )


def _check_names(source: Path, kind: str) -> None:
    """The names of the classes, where the set brings them, tell it from another one of the same form."""
    path = source / ("batches.meta.txt" if kind == "binary" else "batches.meta")
    if not path.exists():
        return
    if kind == "binary":
        found = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    else:
        names = _item(path, read_plain_pickle(path), "label_names")
        found = tuple(_text(name) for name in names) if isinstance(names, list) else ()
    if found != CLASSES:
        raise DataError(
            f"{shown(path)} names the classes {shown(', '.join(found[:10])) or 'not at all'}, which are not CIFAR-10's "
            f"({', '.join(CLASSES)}). Give the batches of CIFAR-10."
        )


def _read_all(source: Path, kind: str) -> Iterator[Batch]:
    paths = [(source / (f"{name}.bin" if kind == "binary" else name), split) for name, split in BATCHES]
    if missing := [path for path, _ in paths if not path.is_file()]:
        raise DataError(f"{shown(missing[0])} is missing. Copy the whole folder again: it holds six batches.")
    for path, split in paths:
        planes, labels = _read_binary(path) if kind == "binary" else _read_python(path)
        if (wrong := np.flatnonzero(labels >= len(CLASSES))).size:
            raise DataError(
                f"{shown(path)} gives image {wrong[0]} the label {labels[wrong[0]]}; there are 0 to 9. Copy it again."
            )
        yield Batch(path.name, split, planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Records of a label and a red, a green and a blue plane, a byte each."""
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % (1 + PIXELS):
        raise DataError(
            f"{shown(path)} has {data.size} bytes, which is no whole number of images of {1 + PIXELS} bytes. "
            "Copy it again."
        )
    records = data.reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = read_plain_pickle(path)
    images, labels = _item(path, content, "data"), _item(path, content, "labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise DataError(f"{shown(path)}: data is no array of bytes with {PIXELS} columns. Copy the file again.")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 255 for label in labels):
        raise DataError(f"{shown(path)}: labels is no list of numbers from 0 to 9. Copy the file again.")
    if len(labels) != len(images) or not labels:
        raise DataError(f"{shown(path)} holds {len(images)} images and {len(labels)} labels. Copy it again.")
    return images, np.array(labels, np.uint8)


def _item(path: Path, content: object, key: str) -> object:
    """Of a dict whose keys are text, or bytes where Python 2 wrote it."""
    if isinstance(content, dict):
        for form in (key, key.encode()):
            if form in content:
                return content[form]
    raise DataError(f"{shown(path)} has no {key}. Give the batches of CIFAR-10.")


def _text(name: object) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)
