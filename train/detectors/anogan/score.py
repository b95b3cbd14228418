"""AnoGAN's scores: what the generator can't draw. Sheet: "Inference and scoring (exact)"."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.blocks.pixels import to_signed
from train.blocks.strided import Form
from train.detectors.anogan.config import AnoGANConfig
from train.detectors.anogan.frozen import FrozenForm, Networks
from train.detectors.anogan.invert import invert
from train.detectors.anogan.settings import Inversion
from train.detectors.scores import RawScores
from train.tiling import Tiling

MANY, WIDE = 32, 32  # searches at once, filters: below, Toom-Cook tiles cost more than they save


class Weights(NamedTuple):
    """All that scoring needs."""

    networks: Networks
    starts: Float[Array, "r d"]  # z before the first step, the same for every image


def inversion(config: AnoGANConfig) -> Inversion:
    return Inversion(
        config.inversion_steps,
        config.inversion_rate,
        config.inversion_final_rate,
        config.distance,
        config.w_residual,
        config.w_feature,
        config.patience,
    )


def form_of(config: AnoGANConfig, count: int) -> FrozenForm:
    """The form in which so many are searched for at once."""
    if config.form != "auto":
        return config.form
    if jax.default_backend() != "cpu":
        return "plain"
    return "tiles" if count >= MANY and config.filters >= WIDE else "matmul"


def at_once(config: AnoGANConfig) -> int:
    """How many are searched for in one program: 0.7 GB at 28 px and 1.5 GB at 64, both at full width.

    Many take less time each, unless their maps are large and the networks narrow: then a CPU's caches decide.
    """
    in_cache = jax.default_backend() == "cpu" and config.filters < WIDE and config.input_size >= 64
    return 24 if in_cache else 256


def training_form(config: AnoGANConfig) -> Form:
    """That of networks whose kernels change from step to step."""
    form = form_of(config, 1)
    return "matmul" if form == "tiles" else form


def raw_scores(weights: Weights, images: Array, config: AnoGANConfig) -> RawScores:
    """A(x) and |x - G(z)| at the end of the search, of tiles where the image is larger than the network's."""
    x = to_signed(config.tiling.cut(images.astype(jnp.float32)), config.channels)
    found = invert(weights.networks, x, weights.starts, inversion(config), config.layout, form_of(config, len(x)))
    return of_tiles(found.loss, jnp.abs(x - found.drawn).mean(axis=-1), config.tiling, config.tile_quantile)


def of_tiles(scores: Float[Array, " m"], maps: Float[Array, "m t t"], tiling: Tiling, quantile: float) -> RawScores:
    """One score and one map per image of those of its tiles."""
    if tiling.is_whole:
        return RawScores(scores, maps)
    per_image = scores.reshape(-1, len(tiling))
    score = per_image.max(axis=1) if quantile == 1 else jnp.quantile(per_image, quantile, axis=1)
    return RawScores(score, tiling.blend(maps))
