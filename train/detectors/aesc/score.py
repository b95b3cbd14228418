"""AESc's scores: the residual, or the variance over Monte-Carlo dropout. Sheet: "Scoring (exact)".

Batch normalisation is folded into the convolutions once, so what is scored, exported and run on the line is one plain
network. Shape letters: n images, k passes, h x w pixels, c channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from train.blocks.subpixel import downsampling_conv, upsampling_conv
from train.detectors.aesc.model import DEPTH, NEGATIVE_SLOPE, AESc, ConvNorm
from train.detectors.scores import RawScores


class Convolution(NamedTuple):
    kernel: Float[Array, "5 5 c o"]
    bias: Float[Array, " o"]


class FoldedAESc(NamedTuple):
    """AESc as it scores: batch normalisation by running statistics, inside the kernels."""

    encoder: tuple[Convolution, ...]
    decoder: tuple[Convolution, ...]
    head: Convolution


@partial(jax.tree_util.register_dataclass, data_fields=["encoder", "decoder"], meta_fields=["rates", "passes"])
@dataclass(frozen=True)
class Dropout:
    """Masks of the passes for each level, [k, h, w, c] or None where the rate is 0; the same for all images."""

    encoder: tuple[Bool[Array, "k _ _ _"] | None, ...]  # level 0 to 5
    decoder: tuple[Bool[Array, "k _ _ _"] | None, ...]  # level 4 to 0
    rates: tuple[float, ...]  # of level 0 to 5
    passes: int


def fold(model: AESc) -> FoldedAESc:
    """The network with its batch normalisation folded into the convolutions."""

    def folded(block: ConvNorm) -> Convolution:
        assert block.norm.scale is not None
        assert block.norm.bias is not None
        assert block.conv.bias is not None
        gain = block.norm.scale[...] * jax.lax.rsqrt(block.norm.var[...] + block.norm.epsilon)
        return Convolution(
            block.conv.kernel[...] * gain, (block.conv.bias[...] - block.norm.mean[...]) * gain + block.norm.bias[...]
        )

    assert model.head.bias is not None
    head = Convolution(model.head.kernel[...], model.head.bias[...])
    return FoldedAESc(tuple(map(folded, model.encoder)), tuple(map(folded, model.decoder)), head)


def reconstruct(weights: FoldedAESc, x: Float[Array, "n h w c"], *, skips: bool) -> Float[Array, "n h w c"]:
    """The same as `AESc.__call__` of `model.eval()`."""
    levels = _encode(weights, x, DEPTH)
    return _decode(weights, levels[-1], levels[:-1], skips=skips, dropout=None)


def reconstructions(
    weights: FoldedAESc, x: Float[Array, "n h w c"], dropout: Dropout, *, skips: bool
) -> Float[Array, "n k h w c"]:
    """One reconstruction per pass. What no mask has touched yet is computed once per image, not once per pass."""
    first = next(level for level, rate in enumerate(dropout.rates) if rate > 0)
    levels = _encode(weights, x, first + 1)
    x = levels.pop()
    for level in range(first, DEPTH):
        if level > first:
            x = _activate(downsampling_conv(x, weights.encoder[level].kernel, "plain"), weights.encoder[level])
        x = _drop(x, dropout.encoder[level], dropout.rates[level], per_image=level == first)
        levels.append(x)
    x = _decode(weights, levels[-1], levels[:-1], skips=skips, dropout=dropout)
    return x.reshape(-1, dropout.passes, *x.shape[1:])


def residual_scores(weights: FoldedAESc, x: Float[Array, "n h w c"], *, skips: bool, quantise: bool) -> RawScores:
    """|x - x_hat| in grey levels, averaged over channels."""
    y = 255 * reconstruct(weights, x, skips=skips)
    anomaly_map = jnp.mean(jnp.abs(255 * x - (jnp.round(y) if quantise else y)), axis=-1)
    return RawScores(l2_norm(anomaly_map), anomaly_map)


def uncertainty_scores(
    weights: FoldedAESc, x: Float[Array, "n h w c"], dropout: Dropout, *, skips: bool, quantise: bool
) -> RawScores:
    """Variance of x_hat over the passes in squared grey levels, averaged over channels; no rounding unless asked."""
    y = 255 * reconstructions(weights, x, dropout, skips=skips)
    y = jnp.round(y) if quantise else y
    variance = jnp.mean((y - jnp.mean(y, axis=1, keepdims=True)) ** 2, axis=1)
    anomaly_map = jnp.mean(variance, axis=-1)
    return RawScores(l2_norm(anomaly_map), anomaly_map)


def l2_norm(anomaly_map: Float[Array, "n h w"]) -> Float[Array, " n"]:
    """sqrt(sum(r^2) / (h w)) per image."""
    return jnp.sqrt(jnp.mean(anomaly_map**2, axis=(1, 2)))


def draw_dropout(key: PRNGKeyArray, rates: Sequence[float], passes: int, filters: int, image_size: int) -> Dropout:
    """Masks for every level whose rate is above 0; True is kept. The bottleneck has one mask, on the encoder's side."""

    def mask(key: PRNGKeyArray, level: int) -> Bool[Array, "k h w c"] | None:
        if rates[level] == 0:
            return None
        side = image_size >> (level + 1)
        return jax.random.bernoulli(key, 1 - rates[level], (passes, side, side, filters << level))

    keys = jax.random.split(key, 2 * DEPTH - 1)
    encoder = tuple(mask(keys[level], level) for level in range(DEPTH))
    decoder = tuple(mask(keys[DEPTH + level], level) for level in reversed(range(DEPTH - 1)))
    return Dropout(encoder, decoder, tuple(rates), passes)


def _encode(weights: FoldedAESc, x: Float[Array, "n h w c"], depth: int) -> list[Array]:
    levels = []
    for conv in weights.encoder[:depth]:
        x = _activate(downsampling_conv(x, conv.kernel, "plain"), conv)
        levels.append(x)
    return levels


def _decode(
    weights: FoldedAESc, x: Array, skipped: Sequence[Array], *, skips: bool, dropout: Dropout | None
) -> Float[Array, "m h w c"]:
    """From the bottleneck to the image; `skipped` are the encoder's levels 0 to 4, per image or per pass."""
    for index, (conv, skip) in enumerate(zip(weights.decoder, reversed(skipped), strict=True)):
        level = DEPTH - 2 - index
        x = _activate(upsampling_conv(x, conv.kernel, "subpixel"), conv)
        if dropout is not None:
            x = _drop(x, dropout.decoder[index], dropout.rates[level], per_image=False)
        if not skips:
            continue
        if dropout is not None and not any(dropout.rates[: level + 1]):
            # No mask has touched this level: it is held once per image and added to each of its passes.
            x = (x.reshape(skip.shape[0], dropout.passes, *skip.shape[1:]) + skip[:, None]).reshape(x.shape)
        else:
            x = x + skip
    y = upsampling_conv(x, weights.head.kernel, "subpixel") + weights.head.bias
    return jax.nn.sigmoid(y)


def _activate(x: Array, conv: Convolution) -> Array:
    return nnx.leaky_relu(x + conv.bias, NEGATIVE_SLOPE)


def _drop(x: Array, mask: Bool[Array, "k h w c"] | None, rate: float, *, per_image: bool) -> Array:
    """Inverted dropout by given masks: [n, ...] (per image) or [n k, ...] -> [n k, ...]."""
    if mask is None:
        return x
    x = x[:, None] if per_image else x.reshape(-1, *mask.shape)
    x = jnp.where(mask, x / (1 - rate), 0.0)
    return x.reshape(-1, *mask.shape[1:])
