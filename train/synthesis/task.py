"""One image of a job, and what draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from edge_agent.preprocess import Preprocessing, prepare_mask
from train.synthesis.regions import Region
from train.synthesis.sources import Source

TOGETHER = "+"  # between the categories of an image that shows several
_REGION = 2  # the second part of the key that a region is drawn by

Images = UInt8[np.ndarray, "n s s 3"]
Regions = Bool[np.ndarray, "n s s"]
Masks = Float[np.ndarray, "n s s"]


@dataclass(frozen=True)
class Task:
    """All that an image depends on beside its source, its region and the painter."""

    index: int
    seed: int
    categories: tuple[str, ...]  # (): to be restored
    strength: float  # in (0, 1]
    source: Source

    @property
    def label(self) -> str:
        """The folder that it belongs in."""
        return TOGETHER.join(self.categories) or "good"

    @property
    def stem(self) -> str:
        return f"{self.index:06d}"


class Painting(NamedTuple):
    """What became of a batch."""

    images: Images
    masks: Masks  # in [0, 1]: how much of each pixel is new
    notes: Sequence[Mapping[str, Any]] = ()  # for each image what its provenance says of the drawing, if anything
    sheets: Sequence[UInt8[np.ndarray, "_h _w 3"]] = ()  # for each image a picture of how it came about, if wished for


@runtime_checkable
class Painter(Protocol):
    """A generator as a job sees it, whichever it is and whatever runs it."""

    @property
    def categories(self) -> tuple[str, ...]:
        """That it can draw."""

    @property
    def exclusive(self) -> bool:
        """Whether it learned of one category per image only."""

    @property
    def restores(self) -> bool:
        """Whether it takes defects away, too."""

    @property
    def preprocessing(self) -> Preprocessing:
        """From a source to what `paint` takes."""

    @property
    def batch(self) -> int:
        """How many images `paint` always gets."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What generator this is, for provenance: equal where the same order gives the same picture."""

    def find_part(self, frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """Where the part is in an image as it was recorded. NoForeground where it can't be found."""

    def check(self, tasks: Sequence[Task], region: Region) -> None:
        """ConfigError for what it can't draw, before anything is written."""

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> Painting:
        """Images with a defect each, or restored.

        An image depends on its own task, region and place in the batch alone, never on the others.
        """


def region_of(
    task: Task, region: Region, frame: UInt8[np.ndarray, "h w 3"], painter: Painter
) -> Bool[np.ndarray, "s s"]:
    """Where in this image the defect may lie, at model size. NoForeground where the part can't be found."""
    random = np.random.default_rng([task.seed, _REGION, task.index])
    return prepare_mask(region.pixels(frame, random, painter.find_part), painter.preprocessing)
