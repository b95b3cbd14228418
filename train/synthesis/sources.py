"""The images that a job starts from: normal ones to be given a defect, or defective ones to be restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from edge_agent.preprocess import ImageError, inspect_image, read_image
from train.config import ConfigError
from train.data.defects import open_labelled
from train.data.samples import DataError, Split, file_digest, relative_name, shown
from train.synthesis.foreground import NoForeground, find_foreground
from train.synthesis.regions import FindPart, Region

Side = Literal["train", "test", "all"]
_ORDER = 1  # the second part of the key that puts sources in order


@dataclass(frozen=True)
class Source:
    """One image; `name` is its path below the data folder."""

    path: Path
    name: str
    split: Split
    sha256: str


@dataclass(frozen=True)
class Sources:
    """Sorted by name. Index after index every image is used once, in an order drawn by the seed, then once more."""

    root: Path
    images: tuple[Source, ...]
    seed: int

    def of(self, index: int) -> Source:
        turn, place = divmod(index, len(self.images))
        return self.images[_order(self.seed, turn, len(self.images))[place]]

    def used(self, count: int) -> tuple[Source, ...]:
        """Those of the first `count` indices."""
        if count >= len(self.images):
            return self.images
        return tuple(sorted({self.of(index) for index in range(count)}, key=lambda source: source.name))

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents: another set of sources is another job."""
        lines = (f"{source.name}\t{source.split}\t{source.sha256}" for source in self.images)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, _ORDER, turn]).permutation(count).tolist())


def find_sources(data: Path, *, side: Side, seed: int, restore: bool) -> Sources:
    """Normal images of a folder in any layout, or of a flat one; to be restored, its defective ones.

    A flat folder has one side, train. Raises DataError where there is none, or one can't be read.
    """
    found = open_labelled(data)
    samples = found.samples
    if found.categories or not restore:  # a flat folder of defective images is taken as it is
        samples = tuple(sample for sample in samples if sample.is_normal != restore)
    chosen = [sample for sample in samples if side in (sample.split, "all")]
    if not chosen:
        what = "defective" if restore else "normal"
        others = f" It has {len(samples)} on the other side: --split all takes them." if samples else ""
        raise DataError(f"{shown(data)} holds no {what} image to start from on the side {side}.{others}")
    try:
        images = [
            Source(sample.path, relative_name(sample.path, found.root), sample.split, file_digest(sample.path))
            for sample in chosen
        ]
    except OSError as error:
        raise DataError(f"{shown(error.filename or data)} can't be read ({error.strerror}).") from error
    return Sources(found.root, tuple(sorted(images, key=lambda source: source.name)), seed)


def check_sources(
    sources: Iterable[Source],
    region: Region,
    progress: Callable[[int, int], None] = lambda done, total: None,
    find_part: FindPart = find_foreground,
) -> None:
    """Before anything is drawn: every image can be read, the region fits it, and the part is found where it has to be.

    Raises ImageError or ConfigError with the first that fails.
    """
    images = list(sources)
    for done, source in enumerate(images, start=1):
        try:
            facts = inspect_image(source.path.read_bytes(), str(source.path))
        except OSError as error:
            raise DataError(f"{shown(source.path)} can't be read ({error.strerror}).") from error
        if facts.problem:
            raise ImageError(facts.problem)
        if wrong := region.fits(facts.width, facts.height):
            raise ConfigError(f"{shown(source.path)}: {wrong}. Nothing was drawn. Give a region inside every image.")
        if region.follows_the_part:
            try:
                region.pixels(read_image(source.path), np.random.default_rng(0), find_part)
            except NoForeground as error:
                raise ConfigError(
                    f"{shown(source.path)}: {error}. Nothing was drawn. For a texture, or a part that fills the image, "
                    "give --region image; else say where: box, polygon or mask."
                ) from None
        progress(done, len(images))
