"""The interface of a detector: plain functions, gathered under its name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from train.config import RunConfig
from train.detectors.scores import RawScores
from train.mask import Mask
from train.networks import Network
from train.players import Phase
from train.section import Section
from train.tiling import Tiling

Images = UInt8[Array, "n h w 3"]
PerImage = Float[Array, " n"]


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


@dataclass(frozen=True)
class Detector:
    """One published method. Images are uint8 RGB at model size; normalisation is the detector's own.

    "inputs" are the images (or their tiles), or what the frozen part makes of them: any tree of arrays whose first axis
    is the image's (or tile's).
    """

    name: str
    schema: type[RunConfig]
    monitor: str  # a validation metric, larger is better; it picks the best checkpoint
    monitor_unit: str
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    phases: Callable[[Any], tuple[Phase, ...]]  # config -> who is trained, and how long
    # (model in evaluation mode, held-out inputs, key, config) -> metrics per image; holds `monitor`
    validate: Callable[[Any, Any, PRNGKeyArray, Any], dict[str, PerImage]]
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
    # (model, () -> batches of training inputs): statistics that the model keeps, taken once before the first step
    measure: Callable[[Any, Callable[[], Iterable[Any]]], None] | None = None
    # Into how many parts a batch is cut for its gradient; more than 1 only where images do not meet in the network
    micro_batches: Callable[[Any], int] = lambda config: 1
    average_decay: Callable[[Any], float] = lambda config: 0.0  # of the parameters' moving average; 0: none is kept
    checkpoint: Callable[[Any], Literal["best", "last"]] = lambda config: "best"  # which one is the run's result
    # (an epoch's figures, config) -> what a person should know of them, a sentence each
    watch: Callable[[Mapping[str, float], Any], Sequence[str]] = lambda figures, config: ()
    # (model in evaluation mode, config) -> an image of what it draws, kept for every epoch
    picture: Callable[[Any, Any], np.ndarray] | None = None
    # what it adds to the report of a TrainedRun
    sections: Callable[[Any], Sequence[Section]] = lambda run: ()
    # networks of a TrainedRun that `export graphs` writes one by one
    networks: Callable[[Any], Sequence[Network]] = lambda run: ()
    server_only: str = ""  # why it can't run on a device; "": it can


def parameter_count(model: nnx.Module) -> int:
    """Trainable numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
