"""Residual blocks and the halving and doubling of maps, as Stable Diffusion's autoencoder and denoiser share them.

Sheet: "Architecture" 1 and 3. Shape letters: n images, h x w cells, c channels (channels last), e numbers of a step's
embedding.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.generators.adabldm.layers import ALL_AROUND, Conv, Draw, GroupNorm, Linear

Map = Float[Array, "n h w c"]


class ResidualBlock(nnx.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut; between the two a step's embedding may be added.

    With an embedding, as in the denoiser, the second convolution starts at 0: a fresh block is its shortcut.
    """

    def __init__(self, channels: int, features: int, *, embedding: int | None, groups: int, epsilon: float, rngs: Draw):
        self.norm1 = GroupNorm(channels, groups, epsilon, rngs=rngs)
        self.conv1 = Conv(channels, features, rngs=rngs)
        self.time = Linear(embedding, features, rngs=rngs) if embedding else None
        self.norm2 = GroupNorm(features, groups, epsilon, rngs=rngs)
        self.conv2 = Conv(features, features, zero=embedding is not None, rngs=rngs)
        self.shortcut = Conv(channels, features, 1, rngs=rngs) if channels != features else None

    def __call__(self, x: Map, embedding: Float[Array, "n e"] | None = None) -> Float[Array, "n h w _c"]:
        y = self.conv1(nnx.silu(self.norm1(x)))
        if self.time is not None and embedding is not None:
            y = y + self.time(nnx.silu(embedding))[:, None, None]
        y = self.conv2(nnx.silu(self.norm2(y)))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class Shrink(nnx.Module):
    """3 x 3 convolution of stride 2. The denoiser pads by one all around, the autoencoder only below and right."""

    def __init__(self, channels: int, *, pad_before: bool, rngs: Draw):
        pads = ALL_AROUND if pad_before else ((0, 1), (0, 1))
        self.conv = Conv(channels, channels, stride=2, pads=pads, rngs=rngs)

    def __call__(self, x: Map) -> Float[Array, "n _h _w c"]:
        return self.conv(x)


class Grow(nnx.Module):
    """Every cell becomes 2 x 2 equal ones, then a 3 x 3 convolution."""

    def __init__(self, channels: int, *, rngs: Draw):
        self.conv = Conv(channels, channels, rngs=rngs)

    def __call__(self, x: Map) -> Float[Array, "n _h _w c"]:
        return self.conv(doubled(x))


def doubled(x: Map) -> Float[Array, "n _h _w c"]:
    """Nearest x2."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def rematerialised(block: nnx.Module, enabled: bool, *arguments: jax.Array | None) -> jax.Array:
    """block(*arguments); if enabled, its inner maps are computed again in the backward pass instead of kept."""
    call = nnx.remat(_called) if enabled else _called
    y: jax.Array = call(block, *arguments)
    return y


def _called(block: nnx.Module, *arguments: jax.Array | None) -> jax.Array:
    y: jax.Array = block(*arguments)  # type: ignore[operator]
    return y
