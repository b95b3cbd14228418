"""Tiny autoencoder: the TAESD family (madebyollin/taesd), which does the autoencoder's work with 2 x 1.2 M numbers.

TAESD gives Stable Diffusion's 4 latent channels, already scaled; TAEF2 gives FLUX.2's 32, with a branch more in the
blocks at the lowest resolution (key layout and forward pass: shared weights' README). Neither has a scale of its own.
Shape letters: n images, y x x pixels, h x w latent cells, z latent channels, c channels.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.generators.adabldm.autoencoder import Images, Latent
from train.generators.adabldm.layers import Conv, Draw, GroupNorm
from train.generators.adabldm.residual import doubled

HALVINGS = 3
BLOCKS = 3  # per size of map, but one at full size
LARGEST = 3.0  # the decoder presses latents into -3..3
POOL_GROUPS = 4
POOL_EPSILON = 1e-5

Map = Float[Array, "n h w c"]


@dataclass(frozen=True)
class TinySpec:
    """A member of the family."""

    latent_channels: int
    pooled: bool  # blocks at the lowest resolution see the whole map
    width: int = 64

    @property
    def factor(self) -> int:
        """Pixels per latent cell and side."""
        return int(2**HALVINGS)


TAESD = TinySpec(latent_channels=4, pooled=False)
TAEF2 = TinySpec(latent_channels=32, pooled=True)


class Pool(nnx.Module):
    """1 x 1 to four times the channels, normalised over the whole map, ReLU, 1 x 1 back."""

    def __init__(self, width: int, *, rngs: Draw):
        self.widen = Conv(width, 4 * width, 1, bias=False, rngs=rngs)
        self.norm = GroupNorm(4 * width, POOL_GROUPS, POOL_EPSILON, rngs=rngs)
        self.narrow = Conv(4 * width, width, 1, bias=False, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        return self.narrow(nnx.relu(self.norm(self.widen(x))))


class Block(nnx.Module):
    """Three convolutions beside a shortcut, ReLU after each and at the end."""

    def __init__(self, width: int, pooled: bool, *, rngs: Draw):
        self.pool = Pool(width, rngs=rngs) if pooled else None
        self.convs = nnx.List([Conv(width, width, rngs=rngs) for _ in range(3)])

    def __call__(self, x: Map) -> Map:
        x = x if self.pool is None else x + self.pool(x)
        first, second, third = self.convs
        return nnx.relu(third(nnx.relu(second(nnx.relu(first(x))))) + x)


class TinyEncoder(nnx.Module):
    """Image in [0, 1] -> latent."""

    def __init__(self, spec: TinySpec, *, rngs: Draw):
        width = spec.width
        self.conv_in = Conv(3, width, rngs=rngs)
        self.first = Block(width, False, rngs=rngs)
        self.shrinks = nnx.List([_bare(width, 2, rngs=rngs) for _ in range(HALVINGS)])
        self.levels = nnx.List(
            [_level(spec, number + 1 == HALVINGS and spec.pooled, rngs=rngs) for number in range(HALVINGS)]
        )
        self.conv_out = Conv(width, spec.latent_channels, rngs=rngs)

    def __call__(self, images: Images) -> Latent:
        x = self.first(self.conv_in(images))
        for shrink, level in zip(self.shrinks, self.levels, strict=True):
            x = shrink(x)
            for block in level:
                x = block(x)
        return self.conv_out(x)


class TinyDecoder(nnx.Module):
    """Latent -> image in [0, 1], about: nothing keeps it inside."""

    def __init__(self, spec: TinySpec, *, rngs: Draw):
        self.conv_in = Conv(spec.latent_channels, spec.width, rngs=rngs)
        self.levels = nnx.List([_level(spec, number == 0 and spec.pooled, rngs=rngs) for number in range(HALVINGS)])
        self.grows = nnx.List([_bare(spec.width, 1, rngs=rngs) for _ in range(HALVINGS)])
        self.last = Block(spec.width, False, rngs=rngs)
        self.conv_out = Conv(spec.width, 3, rngs=rngs)

    def __call__(self, latent: Latent) -> Images:
        x = nnx.relu(self.conv_in(LARGEST * jnp.tanh(latent / LARGEST)))
        for level, grow in zip(self.levels, self.grows, strict=True):
            for block in level:
                x = block(x)
            x = grow(doubled(x))
        return self.conv_out(self.last(x))


class TinyAutoencoder(nnx.Module):
    """Both halves, for images in [-1, 1] as the other autoencoder has them."""

    def __init__(self, spec: TinySpec, *, rngs: Draw):
        self.encoder = TinyEncoder(spec, rngs=rngs)
        self.decoder = TinyDecoder(spec, rngs=rngs)

    def encode(self, images: Images) -> Latent:
        return self.encoder((images + 1) / 2)

    def decode(self, latent: Latent) -> Images:
        return 2 * self.decoder(latent) - 1


def _bare(width: int, stride: int, *, rngs: Draw) -> Conv:
    return Conv(width, width, stride=stride, bias=False, rngs=rngs)


def _level(spec: TinySpec, pooled: bool, *, rngs: Draw) -> nnx.List[Block]:
    return nnx.List([Block(spec.width, pooled, rngs=rngs) for _ in range(BLOCKS)])
