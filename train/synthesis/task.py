"""One image of a job, and what draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from edge_agent.preprocess import Preprocessing
from train.synthesis.sources import Source

TOGETHER = "+"  # between the categories of an image that shows several

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
    def preprocessing(self) -> Preprocessing:
        """From a source to what `paint` takes."""

    @property
    def batch(self) -> int:
        """How many images `paint` always gets."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What generator this is, for provenance: equal where the same order gives the same picture."""

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> tuple[Images, Masks]:
        """Images with a defect each, or restored, and in [0, 1] how much of each pixel is new.

        An image depends on its own task, region and place in the batch alone, never on the others.
        """
