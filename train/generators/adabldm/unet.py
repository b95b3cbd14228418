"""Denoiser: Stable Diffusion 1.5's U-Net, which tells the noise in a latent, given the step and the prompt.

Sheet: "Architecture" 3. Shape letters: n images, h x w latent cells, z latent channels, k tokens of a prompt, d
channels of a token, c channels of a map.
"""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from train.generators.adabldm.attention import SpatialTransformer
from train.generators.adabldm.layers import Conv, Draw, GroupNorm, Linear
from train.generators.adabldm.residual import Grow, ResidualBlock, Shrink, rematerialised

EPSILON = 1e-5  # of the norms in residual blocks and before the output
LONGEST_PERIOD = 10_000  # of the step's embedding, in steps

Latent = Float[Array, "n h w z"]
Step = Int[Array, " n"] | Float[Array, " n"]
Context = Float[Array, "n k d"]
AnyMap = Float[Array, "n _h _w _c"]


@dataclass(frozen=True)
class UNetSpec:
    """The sizes of a denoiser. The trimap encoder of the same system has them too."""

    latent_channels: int = 4
    width: int = 320  # channels of the first level
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of width, level by level; each level has half the cells of the last
    residual_blocks: int = 2  # per level; one more on the way up
    transformers: tuple[bool, ...] = (True, True, True, False)  # which levels have them; the middle always has one
    heads: int = 8
    context: int = 768  # channels of a token of the prompt
    groups: int = 32  # of every group norm
    rematerialise: bool = False  # less memory in training, more time

    def __post_init__(self) -> None:
        if len(self.transformers) != len(self.multipliers):
            raise ValueError(
                f"UNetSpec has {len(self.multipliers)} multipliers, but transformers={self.transformers} says of "
                f"{len(self.transformers)} levels whether they have transformers. Give one of each per level."
            )

    @property
    def embedding(self) -> int:
        """Numbers of the step's embedding."""
        return 4 * self.width

    @property
    def level_widths(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def size_multiple(self) -> int:
        """The sides of a latent must be a multiple of it."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def skip_widths(self) -> tuple[int, ...]:
        """Channels of each map that the way down leaves for the way up."""
        widths = [self.width]
        for level, width in enumerate(self.level_widths):
            shrinks = level + 1 < len(self.multipliers)
            widths += [width] * (self.residual_blocks + shrinks)
        return tuple(widths)


class Control(NamedTuple):
    """What the trimap encoder adds to the denoiser's skip maps and to its middle."""

    skips: tuple[AnyMap, ...]
    middle: AnyMap


class Encoded(NamedTuple):
    """What the way down leaves for the way up."""

    skips: tuple[AnyMap, ...]
    middle: AnyMap
    embedding: Float[Array, "n _e"]


class Level(nnx.Module):
    """Residual blocks on one size of map, a transformer behind each where the level has them."""

    def __init__(self, channels: tuple[int, ...], width: int, spec: UNetSpec, transformers: bool, *, rngs: Draw):
        """`channels`: what goes into each block."""
        self.rematerialise = spec.rematerialise
        self.residuals = nnx.List([_residual(c, width, spec, rngs=rngs) for c in channels])
        self.transformers = nnx.List([_transformer(width, spec, rngs=rngs) for _ in channels if transformers])

    def step(self, index: int, x: AnyMap, embedding: Float[Array, "n e"], context: Context) -> AnyMap:
        """Through one block and its transformer."""
        x = rematerialised(self.residuals[index], self.rematerialise, x, embedding)
        return rematerialised(self.transformers[index], self.rematerialise, x, context) if self.transformers else x


class Middle(nnx.Module):
    """Two residual blocks with a transformer between them."""

    def __init__(self, width: int, spec: UNetSpec, *, rngs: Draw):
        self.residual1 = _residual(width, width, spec, rngs=rngs)
        self.transformer = _transformer(width, spec, rngs=rngs)
        self.residual2 = _residual(width, width, spec, rngs=rngs)

    def __call__(self, x: AnyMap, embedding: Float[Array, "n e"], context: Context) -> AnyMap:
        return self.residual2(self.transformer(self.residual1(x, embedding), context), embedding)


class UNetEncoder(nnx.Module):
    """The way down and the middle. The denoiser has one, and the trimap encoder a copy of it."""

    def __init__(self, spec: UNetSpec, *, rngs: Draw):
        self.spec = spec
        self.time_in = Linear(spec.width, spec.embedding, rngs=rngs)
        self.time_out = Linear(spec.embedding, spec.embedding, rngs=rngs)
        self.conv_in = Conv(spec.latent_channels, spec.width, rngs=rngs)
        levels, shrinks, channels = [], [], spec.width
        for number, (width, transformers) in enumerate(zip(spec.level_widths, spec.transformers, strict=True)):
            entering = (channels, *[width] * (spec.residual_blocks - 1))
            levels.append(Level(entering, width, spec, transformers, rngs=rngs))
            if number + 1 < len(spec.multipliers):
                shrinks.append(Shrink(width, pad_before=True, rngs=rngs))
            channels = width
        self.down, self.shrinks = nnx.List(levels), nnx.List(shrinks)
        self.middle = Middle(channels, spec, rngs=rngs)

    def __call__(
        self, latent: Latent, step: Step, context: Context, hint: Float[Array, "n h w c"] | None = None
    ) -> Encoded:
        """`hint` is added to the first map."""
        waves = step_embedding(step, self.spec.width).astype(latent.dtype)
        embedding = self.time_out(nnx.silu(self.time_in(waves)))
        x = self.conv_in(latent)
        x = x if hint is None else x + hint
        skips = [x]
        for number, level in enumerate(self.down):
            for index in range(self.spec.residual_blocks):
                x = level.step(index, x, embedding, context)
                skips.append(x)
            if number < len(self.shrinks):
                x = self.shrinks[number](x)
                skips.append(x)
        return Encoded(tuple(skips), self.middle(x, embedding, context), embedding)


class Denoiser(nnx.Module):
    """epsilon_theta: noisy latent, step, prompt and perhaps a trimap's control -> the noise in the latent."""

    def __init__(self, spec: UNetSpec, *, rngs: Draw):
        self.spec = spec
        self.encoder = UNetEncoder(spec, rngs=rngs)
        levels: list[Level] = []
        grows, left = [], list(spec.skip_widths)
        channels = spec.level_widths[-1]
        for width, transformers in zip(spec.level_widths[::-1], spec.transformers[::-1], strict=True):
            if levels:
                grows.append(Grow(channels, rngs=rngs))
            entering = [channels + left.pop(), *[width + left.pop() for _ in range(spec.residual_blocks)]]
            levels.append(Level(tuple(entering), width, spec, transformers, rngs=rngs))
            channels = width
        self.up, self.grows = nnx.List(levels), nnx.List(grows)  # the smallest map first
        self.norm_out = GroupNorm(channels, spec.groups, EPSILON, rngs=rngs)
        self.conv_out = Conv(channels, spec.latent_channels, zero=True, rngs=rngs)

    def __call__(self, latent: Latent, step: Step, context: Context, control: Control | None = None) -> Latent:
        encoded = self.encoder(latent, step, context)
        skips, x = list(encoded.skips), encoded.middle
        if control is not None:
            skips = [skip + more for skip, more in zip(skips, control.skips, strict=True)]
            x = x + control.middle
        for number, level in enumerate(self.up):
            x = self.grows[number - 1](x) if number else x
            for index in range(self.spec.residual_blocks + 1):
                x = level.step(index, jnp.concatenate([x, skips.pop()], axis=-1), encoded.embedding, context)
        return self.conv_out(nnx.silu(self.norm_out(x)))


def step_embedding(step: Step, width: int) -> Float[Array, "n width"]:
    """Cosines, then sines, of the step at `width` / 2 frequencies, from one radian per step down to 1 / 10 000."""
    half = width // 2
    frequencies = np.exp(-log(LONGEST_PERIOD) * np.arange(half) / half).astype(np.float32)
    angles = step.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _residual(channels: int, width: int, spec: UNetSpec, *, rngs: Draw) -> ResidualBlock:
    return ResidualBlock(channels, width, embedding=spec.embedding, groups=spec.groups, epsilon=EPSILON, rngs=rngs)


def _transformer(width: int, spec: UNetSpec, *, rngs: Draw) -> SpatialTransformer:
    return SpatialTransformer(width, spec.context, spec.heads, spec.groups, rngs=rngs)
