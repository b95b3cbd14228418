"""A few defective images of a type, drawn to be trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from train.data.samples import DataError, file_digest, shown


def few_of(paths: Collection[Path], count: int, seed: int, *, label: str, where: Path, without: str) -> set[Path]:
    """`count` of a type's images, or some more where copies stay together; a larger count takes more of the same.

    Which, the seed and the images' bytes decide. DataError where there are fewer; `without` says what is taken where no
    number is given.
    """
    if count > len(paths):
        raise DataError(
            f"{shown(where)} has {len(paths)} images of {label}, and {count} of each type are to be trained on. Give "
            f"{len(paths)} at most, or leave the number out: {without} then."
        )
    by_draw: dict[str, list[Path]] = {}
    for path in paths:
        by_draw.setdefault(hashlib.sha256(f"{seed} {_content(path)}".encode()).hexdigest(), []).append(path)
    drawn: set[Path] = set()
    for _, copies in sorted(by_draw.items()):
        if len(drawn) >= count:
            break
        drawn.update(copies)
    return drawn


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # the check of the data names this file; here it only has to land somewhere
        return os.fsdecode(path.name)
