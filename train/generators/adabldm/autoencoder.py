"""Autoencoder: Stable Diffusion 1.5's, which has an image of h x w pixels stand for h/8 x w/8 cells of 4 numbers.

Sheet: "Architecture" 1. Kullback-Leibler refers to how it was trained: its encoder gives a distribution per cell, which
a term of the loss keeps near the normal one. Shape letters: n images, y x x pixels, h x w latent cells, z latent
channels, c channels.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.generators.adabldm.attention import Attention
from train.generators.adabldm.layers import Conv, Draw, GroupNorm
from train.generators.adabldm.residual import Grow, ResidualBlock, Shrink

EPSILON = 1e-6  # of every norm
NARROWEST, WIDEST = -30.0, 20.0  # bounds on the encoder's log variance

Images = Float[Array, "n y x 3"]
Latent = Float[Array, "n h w z"]
AnyMap = Float[Array, "n _h _w _c"]


@runtime_checkable
class Autoencoder(Protocol):
    """What sampling and training know of one: images in [-1, 1] to latents that a denoiser works on, and back."""

    def encode(self, images: Images) -> Latent: ...
    def decode(self, latent: Latent) -> Images: ...


@dataclass(frozen=True)
class KLSpec:
    """Sizes of the autoencoder."""

    latent_channels: int = 4
    width: int = 128  # channels at full size
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of width, level by level; each level has half the pixels of the last
    residual_blocks: int = 2  # per level; one more in the decoder
    groups: int = 32  # of every group norm
    scale: float = 0.18215  # latents are multiplied by it, which gives them a deviation of about 1

    @property
    def factor(self) -> int:
        """Pixels per latent cell and side."""
        return int(2 ** (len(self.multipliers) - 1))


class Posterior(NamedTuple):
    """A normal distribution per number of a latent."""

    mean: Latent
    log_variance: Latent

    def draw(self, key: PRNGKeyArray) -> Latent:
        return self.mean + jnp.exp(self.log_variance / 2) * jax.random.normal(key, self.mean.shape, self.mean.dtype)


class CellAttention(nnx.Module):
    """Attention of one head among all cells, beside a shortcut."""

    def __init__(self, width: int, groups: int, *, rngs: Draw):
        self.norm = GroupNorm(width, groups, EPSILON, rngs=rngs)
        self.attention = Attention(width, width, 1, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        n, h, w, c = x.shape
        tokens = self.norm(x).reshape(n, h * w, c)
        return x + self.attention(tokens, tokens).reshape(x.shape)


class Middle(nnx.Module):
    """Two residual blocks with attention between them, on the smallest map."""

    def __init__(self, width: int, groups: int, *, rngs: Draw):
        self.residual1 = _residual(width, width, groups, rngs=rngs)
        self.attention = CellAttention(width, groups, rngs=rngs)
        self.residual2 = _residual(width, width, groups, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return self.residual2(self.attention(self.residual1(x)))


class KLEncoder(nnx.Module):
    """Omega: image -> a distribution of latents, not yet scaled."""

    def __init__(self, spec: KLSpec, *, rngs: Draw):
        self.conv_in = Conv(3, spec.width, rngs=rngs)
        levels, shrinks, channels = [], [], spec.width
        for number, multiplier in enumerate(spec.multipliers):
            width = spec.width * multiplier
            levels.append(_level(channels, width, spec.residual_blocks, spec.groups, rngs=rngs))
            if number + 1 < len(spec.multipliers):
                shrinks.append(Shrink(width, pad_before=False, rngs=rngs))
            channels = width
        self.down, self.shrinks = nnx.List(levels), nnx.List(shrinks)
        self.middle = Middle(channels, spec.groups, rngs=rngs)
        self.norm_out = GroupNorm(channels, spec.groups, EPSILON, rngs=rngs)
        self.conv_out = Conv(channels, 2 * spec.latent_channels, rngs=rngs)
        self.to_moments = Conv(2 * spec.latent_channels, 2 * spec.latent_channels, 1, rngs=rngs)

    def __call__(self, images: Images) -> Posterior:
        x: AnyMap = self.conv_in(images)
        for number, level in enumerate(self.down):
            for block in level:
                x = block(x)
            x = self.shrinks[number](x) if number < len(self.shrinks) else x
        moments = self.to_moments(self.conv_out(nnx.silu(self.norm_out(self.middle(x)))))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, NARROWEST, WIDEST))


class KLDecoder(nnx.Module):
    """Phi: latent, no longer scaled -> image."""

    def __init__(self, spec: KLSpec, *, rngs: Draw):
        channels = spec.width * spec.multipliers[-1]
        self.from_latent = Conv(spec.latent_channels, spec.latent_channels, 1, rngs=rngs)
        self.conv_in = Conv(spec.latent_channels, channels, rngs=rngs)
        self.middle = Middle(channels, spec.groups, rngs=rngs)
        levels: list[nnx.List[ResidualBlock]] = []
        grows = []
        for multiplier in reversed(spec.multipliers):
            if levels:
                grows.append(Grow(channels, rngs=rngs))
            width = spec.width * multiplier
            levels.append(_level(channels, width, spec.residual_blocks + 1, spec.groups, rngs=rngs))
            channels = width
        self.up, self.grows = nnx.List(levels), nnx.List(grows)  # the smallest map first
        self.norm_out = GroupNorm(channels, spec.groups, EPSILON, rngs=rngs)
        self.conv_out = Conv(channels, 3, rngs=rngs)

    def __call__(self, latent: Latent) -> Images:
        x: AnyMap = self.middle(self.conv_in(self.from_latent(latent)))
        for number, level in enumerate(self.up):
            x = self.grows[number - 1](x) if number else x
            for block in level:
                x = block(x)
        return self.conv_out(nnx.silu(self.norm_out(x)))


class KLAutoencoder(nnx.Module):
    """Both halves and the scale between them and the denoiser."""

    def __init__(self, spec: KLSpec, *, rngs: Draw):
        self.scale = spec.scale
        self.encoder = KLEncoder(spec, rngs=rngs)
        self.decoder = KLDecoder(spec, rngs=rngs)

    def encode(self, images: Images) -> Latent:
        """The mean of the distribution; it is so narrow that a draw differs little."""
        return self.encoder(images).mean * self.scale

    def decode(self, latent: Latent) -> Images:
        return self.decoder(latent / self.scale)


def _residual(channels: int, width: int, groups: int, *, rngs: Draw) -> ResidualBlock:
    return ResidualBlock(channels, width, embedding=None, groups=groups, epsilon=EPSILON, rngs=rngs)


def _level(channels: int, width: int, blocks: int, groups: int, *, rngs: Draw) -> nnx.List[ResidualBlock]:
    entering = [channels, *[width] * (blocks - 1)]
    return nnx.List([_residual(c, width, groups, rngs=rngs) for c in entering])
