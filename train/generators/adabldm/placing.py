"""Where defects go: masks on the part, in the region asked for.

A mask is one of the few that the run learned from, or one of the user's, turned, scaled and moved to one of all places
that hold it (sheet: "Inference (exact)"); a trimap of the user's stays where it is, and its part is the part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, UInt8

from train.config import ConfigError
from train.data.samples import shown
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.pairs import Turns, place
from train.generators.adabldm.shapes import Shape
from train.generators.adabldm.weights import AdaBLDMWeights, foreground_of
from train.synthesis.task import Images, Regions, Task

PLACE = 3  # folded into an image's key, beside the purposes of sampler.py
_SHAPE = 3  # the second part of the key that a mask is chosen by
REMEMBERED = 4096  # foregrounds
OFF_THE_PART = 0.1  # of a defect's pixels in a user's trimap, that may lie off the part as it is found

Mask = Bool[np.ndarray, "s s"]


class Asks(NamedTuple):
    """Of a batch."""

    mask: Bool[np.ndarray, "n s s"]
    foreground: Bool[np.ndarray, "n s s"]


class Placing:
    """`shapes` are the user's; () for those learned from. `fixed`: they stay where they are."""

    def __init__(self, weights: AdaBLDMWeights, config: AdaBLDMConfig, shapes: Sequence[Shape], *, fixed: bool):
        self.shapes, self.fixed = tuple(shapes), fixed
        self.learned: Mapping[str, Bool[np.ndarray, "_m s s"]] = {
            name: np.asarray(masks).astype(bool) for name, masks in weights.masks.items()
        }
        self._foreground = partial(jax.jit(partial(_foreground, config)), weights)
        self._place = jax.jit(jax.vmap(partial(_placed, config.turns)))
        self._found: dict[bytes, np.ndarray] = {}

    def shape_of(self, task: Task) -> Shape | None:
        """The user's, one for each image by its seed and index; None where there is none."""
        return self.shapes[_chosen(task, len(self.shapes))] if self.shapes else None

    def said_of(self, task: Task) -> str | int:
        """Which mask an image's is: a file's name, or the number of one learned from."""
        shape = self.shape_of(task)
        return _chosen(task, len(self.learned[task.label])) if shape is None else shape.name

    def found(self, image: UInt8[np.ndarray, "s s 3"]) -> Mask:
        """The part in an image at model size, looked for once."""
        key = hashlib.sha256(image.tobytes()).digest()
        if key not in self._found:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[key] = np.asarray(self._foreground(jnp.asarray(image[None])))[0]
        return self._found[key]

    def part(self, image: UInt8[np.ndarray, "s s 3"], shape: Shape | None) -> Mask:
        """As it is found, or as the user's trimap has it."""
        return self.found(image) if shape is None or shape.foreground is None else shape.foreground

    def asks(self, images: Images, regions: Regions, tasks: Sequence[Task], keys: Key[Array, " n"]) -> Asks:
        """The masks in their places; an image's hang on its own key, part and region alone."""
        shapes = [self.shape_of(task) for task in tasks]
        foreground = np.stack([self.part(image, shape) for image, shape in zip(images, shapes, strict=True)])
        masks = np.stack(
            [self._learned_by(t) if shape is None else shape.defect for t, shape in zip(tasks, shapes, strict=True)]
        )
        if self.fixed:
            return Asks(masks & foreground & regions, foreground)
        return Asks(np.asarray(self._place(masks, foreground & regions, keys)), foreground)

    def check(self, task: Task, frame: UInt8[np.ndarray, "h w 3"], part: Mask, region: Mask, words: str) -> None:
        """ConfigError where a mask can't go; `words` are the region's."""
        shape, where, allowed = self.shape_of(task), f"{shown(task.source.path)}: ", part & region
        if not allowed.any():
            raise ConfigError(
                f"{where}the region {words} lies off the part, which covers {part.mean():.0%} of the image. Nothing "
                "was drawn. Give a region on the part, or none."
            )
        if shape is None:
            return
        if frame.shape[:2] != (shape.height, shape.width):
            raise ConfigError(
                f"{where}it is {frame.shape[1]} x {frame.shape[0]} pixels, but {shown(shape.name)} is {shape.size}. "
                "Nothing was drawn. A mask is as large as the images that it is for."
            )
        defect = int(shape.defect.sum())
        if self.fixed and (off := int((shape.defect & ~allowed).sum())) > OFF_THE_PART * defect:
            raise ConfigError(
                f"{where}{off} of the {defect} pixels of the defect in {shown(shape.name)} lie off the part, or "
                f"outside the region {words}. Nothing was drawn. Move it, or draw the part into the trimap (127)."
            )
        if not self.fixed and defect > allowed.sum():
            raise ConfigError(
                f"{where}the defect in {shown(shape.name)} has {defect} pixels at model size, more than the "
                f"{int(allowed.sum())} where it may go. Nothing was drawn. Give a smaller shape, or a larger region."
            )

    def _learned_by(self, task: Task) -> Mask:
        """One of the few masks of its category."""
        few = self.learned[task.label]
        mask: Mask = few[_chosen(task, len(few))]
        return mask


def _chosen(task: Task, count: int) -> int:
    return int(np.random.default_rng([task.seed, _SHAPE, task.index]).integers(count))


def _foreground(config: AdaBLDMConfig, weights: AdaBLDMWeights, images: UInt8[Array, "n s s 3"]) -> Any:
    return foreground_of(weights, config, images)


def _placed(turns: Turns, mask: Bool[Array, "s s"], allowed: Bool[Array, "s s"], key: Key[Array, ""]) -> Any:
    return place(mask, allowed, jax.random.fold_in(key, PLACE), turns).mask
