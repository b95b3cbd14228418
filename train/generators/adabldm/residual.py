"""Residual blocks and the halving and doubling of maps, as Stable Diffusion's autoencoder and denoiser share them.

Sheet: "Architecture" 1 and 3. Shape letters: n images, h x w cells, c channels (channels last), e numbers of a step's
embedding.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Map = Float[Array, "n h w c"]

_BY_ONE = ((1, 1), (1, 1))


def conv3(channels: int, features: int, *, stride: int = 1, zero: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """3 x 3, padded by one on every side as PyTorch does it; `zero`: its weights start at 0."""
    init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(channels, features, (3, 3), strides=stride, padding=_BY_ONE, kernel_init=init, rngs=rngs)


def conv1(channels: int, features: int, *, zero: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """1 x 1."""
    init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(channels, features, (1, 1), padding="VALID", kernel_init=init, rngs=rngs)


def group_norm(channels: int, groups: int, epsilon: float, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Mean and variance in float32 and one after the other: mean(x^2) - mean(x)^2 cancels where the mean is large."""
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class ResidualBlock(nnx.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut; between the two a step's embedding may be added.

    With an embedding, as in the denoiser, the second convolution starts at 0: a fresh block is its shortcut.
    """

    def __init__(
        self, channels: int, features: int, *, embedding: int | None, groups: int, epsilon: float, rngs: nnx.Rngs
    ):
        self.norm1 = group_norm(channels, groups, epsilon, rngs=rngs)
        self.conv1 = conv3(channels, features, rngs=rngs)
        self.time = nnx.Linear(embedding, features, rngs=rngs) if embedding else None
        self.norm2 = group_norm(features, groups, epsilon, rngs=rngs)
        self.conv2 = conv3(features, features, zero=embedding is not None, rngs=rngs)
        self.shortcut = conv1(channels, features, rngs=rngs) if channels != features else None

    def __call__(self, x: Map, embedding: Float[Array, "n e"] | None = None) -> Float[Array, "n h w _c"]:
        y = self.conv1(nnx.silu(self.norm1(x)))
        if self.time is not None and embedding is not None:
            y = y + self.time(nnx.silu(embedding))[:, None, None]
        y = self.conv2(nnx.silu(self.norm2(y)))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class Shrink(nnx.Module):
    """3 x 3 convolution of stride 2. The denoiser pads by one all around, the autoencoder only below and right."""

    def __init__(self, channels: int, *, pad_before: bool, rngs: nnx.Rngs):
        pads = _BY_ONE if pad_before else ((0, 1), (0, 1))
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=2, padding=pads, rngs=rngs)

    def __call__(self, x: Map) -> Float[Array, "n _h _w c"]:
        return self.conv(x)


class Grow(nnx.Module):
    """Every cell becomes 2 x 2 equal ones, then a 3 x 3 convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = conv3(channels, channels, rngs=rngs)

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
