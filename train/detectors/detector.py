"""The interface of a detector: plain functions, gathered under its name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from train.config import RunConfig
from train.detectors.scores import RawScores

Images = UInt8[Array, "n h w 3"]
PerImage = Float[Array, " n"]


@dataclass(frozen=True)
class Detector:
    """One published method. Images are uint8 RGB at model size; normalisation is the detector's own."""

    name: str
    schema: type[RunConfig]
    monitor: str  # the validation metric that picks the checkpoint; larger is better
    monitor_unit: str
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    # (model in training mode, images, key, config) -> loss per image, metrics per image
    loss: Callable[[Any, Images, PRNGKeyArray, Any], tuple[PerImage, dict[str, PerImage]]]
    # (model in evaluation mode, held-out images, key, config) -> metrics per image; holds `monitor`
    validate: Callable[[Any, Images, PRNGKeyArray, Any], dict[str, PerImage]]
    # (model, config) -> weights of the scoring network (any tree of arrays)
    fold: Callable[[Any, Any], Any]
    # (weights, images, config) -> raw scores; pure and traceable
    score: Callable[[Any, Images, Any], RawScores]
    score_definition: Callable[[Any], str]  # a sentence for the manifest and the report
    scoring_mode: Callable[[Any], str]  # one word for tables
    scoring_settings: frozenset[str]  # settings that training does not read: a trained run may change them


def parameter_count(model: nnx.Module) -> int:
    """Trainable numbers."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
