"""The segmenter as the shared loop trains it: model, losses, how images are turned, what is watched."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.optimizer import adam
from train.players import one_network
from train.segmenter.config import SegmenterConfig
from train.segmenter.loss import focal, l1
from train.segmenter.model import Segmenter
from train.system import PerImage, System

Inputs = dict[str, Array]  # image: uint8 [n, s, s, 3]; mask: uint8 [n, s, s], 1 where defective


def build(config: SegmenterConfig, rngs: nnx.Rngs) -> Segmenter:
    return Segmenter(config.encoder, config.width, config.image_size, rngs=rngs)


def logits(model: Segmenter, images: Array) -> Float[Array, "n s s"]:
    return model(images.astype(jnp.float32))


def scores(model: Segmenter, images: Array) -> Float[Array, "n s s"]:
    """Of each pixel, between 0 and 1."""
    return jax.nn.sigmoid(logits(model, images))


def turned(pixels: Array, key: PRNGKeyArray, *, quarter_turns: bool) -> Array:
    """Each image left to right, upside down, and its rows made columns, or not: one of eight ways, or of four."""
    keys = jax.random.split(key, 3)
    down, right, across = (jax.random.bernoulli(way, 0.5, (len(pixels), 1, 1, 1)) for way in keys)
    pixels = jnp.where(down, jnp.flip(pixels, 1), pixels)
    pixels = jnp.where(right, jnp.flip(pixels, 2), pixels)
    return jnp.where(across, jnp.swapaxes(pixels, 1, 2), pixels) if quarter_turns else pixels


def loss(
    model: Segmenter, inputs: Inputs, key: PRNGKeyArray, config: SegmenterConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    together = jnp.concatenate([inputs["image"], inputs["mask"][..., None]], axis=-1)
    together = turned(together, key, quarter_turns=config.quarter_turns)
    found, mask = logits(model, together[..., :3]), together[..., 3].astype(jnp.float32)
    of_focal, of_l1 = focal(found, mask, config.focal_gamma), l1(found, mask)
    return of_focal + config.l1_weight * of_l1, {"focal": of_focal, "l1": of_l1}


def validate(model: Segmenter, inputs: Inputs, key: PRNGKeyArray, config: SegmenterConfig) -> dict[str, PerImage]:
    """On held-out normal images: how much of them is left alone."""
    return {"quiet": jnp.mean(scores(model, inputs["image"]) < 0.5, axis=(1, 2))}


def _phases(config: Any) -> Any:
    return one_network(loss, adam, config.epochs)


SEGMENTER = System(
    name="segmenter",
    schema=SegmenterConfig,
    monitor="quiet",
    monitor_unit="of good pixels below 0.5",
    build=build,
    phases=_phases,
    validate=validate,
    checkpoint=lambda config: "last",
)
