"""The interface of a detector: plain functions, gathered under its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8

from train.config import RunConfig
from train.detectors.scores import RawScores
from train.mask import Mask
from train.system import System
from train.tiling import Tiling

Images = UInt8[Array, "n h w 3"]


@dataclass(frozen=True)
class FrozenPart:
    """A network before the trained one that training does not change: what it makes of an image is computed once."""

    name: str  # of its file in the run folder, and in sentences
    load: Callable[[Any], nnx.Module]  # config -> with its published weights
    save: Callable[[Path, Any], None]
    restore: Callable[[Path, Any], nnx.Module]
    encode: Callable[[Any, Images, Any], Any]  # (module, images, config) -> inputs of the trained network; traceable


@dataclass(frozen=True)
class Masking:
    """How a detector judges only a part of what the camera sees.

    With a mask, images for training and validation have a fourth channel: 255 where a pixel is judged, 0 where not.
    """

    file: Callable[[Any], Path | None]  # config -> the user's mask, if one is set
    cell: Callable[[Any], int]  # config -> side in pixels of the coarsest area that is judged as one
    score: Callable[[Any, Images, Any, Mask], RawScores]  # as Detector.score; pixels outside the mask score 0


@dataclass(frozen=True, kw_only=True)
class Detector(System):
    """One published method. Images are uint8 RGB at model size; normalisation is the detector's own.

    "inputs" are the images (or their tiles), or what the frozen part makes of them: any tree of arrays whose first axis
    is the image's (or tile's).
    """

    schema: type[RunConfig]
    # (model, frozen module or None, config) -> weights of the scoring network (any tree of arrays)
    fold: Callable[[Any, Any, Any], Any]
    # (weights, images, config) -> raw scores; pure and traceable
    score: Callable[[Any, Images, Any], RawScores]
    score_definition: Callable[[Any], str]  # a sentence for the manifest and the report
    scoring_mode: Callable[[Any], str]  # one word for tables
    scoring_settings: frozenset[str]  # settings that training does not read: a trained run may change them
    frozen: FrozenPart | None = None
    masking: Masking | None = None
    # What is trained on as one image; `score` takes whole images all the same
    tiling: Callable[[Any], Tiling] = lambda config: Tiling(config.image_size, config.image_size)
    # (model in evaluation mode, config) -> an image of what it draws, kept for every epoch
    picture: Callable[[Any, Any], np.ndarray] | None = None
    # Images, or tiles of them, that scoring takes in one program
    inputs_at_once: Callable[[Any], int] = lambda config: 8
    server_only: str = ""  # why it can't run on a device; "": it can


def parameter_count(model: nnx.Module) -> int:
    """Trainable numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
