"""The layers that the networks are made of: trained arrays, drawn on the host, or shapes alone.

Flax's own layers compile a program for the first numbers of every shape, which takes a network of this many shapes
longer than its first training step; drawn by NumPy they take none. With no Rngs a layer has shapes in place of arrays:
what a file of weights is about to fill costs no memory before.

Shape letters: n images, h x w cells, i and o channels in and out, c channels (channels last), ... anything.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Draw = nnx.Rngs | None  # None: shapes in place of arrays
Pads = tuple[tuple[int, int], tuple[int, int]]  # zeros (above, below), (left, right)

ALL_AROUND: Pads = ((1, 1), (1, 1))


def drawn(rngs: Draw, shape: tuple[int, ...], spread: float) -> nnx.Param:
    """Normal numbers of this standard deviation; the same seed gives the same on every machine."""
    if rngs is None:
        return nnx.Param(_shape(shape))
    seed = np.asarray(jax.random.key_data(rngs.params()))
    numbers = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return nnx.Param(jnp.asarray(np.float32(spread) * numbers))


def constant(rngs: Draw, shape: tuple[int, ...], value: float) -> nnx.Param:
    return nnx.Param(_shape(shape) if rngs is None else jnp.asarray(np.full(shape, value, np.float32)))


def _shape(shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)  # type: ignore[no-untyped-call]


class Conv(nnx.Module):
    """Convolution of 3 x 3 padded by one all around, or of 1 x 1, unless `pads` says otherwise."""

    def __init__(
        self,
        channels: int,
        features: int,
        size: int = 3,
        *,
        stride: int = 1,
        pads: Pads | None = None,
        bias: bool = True,
        zero: bool = False,
        rngs: Draw,
    ):
        """`zero`: its weights start at 0."""
        self.stride = stride
        self.pads = pads if pads is not None else ALL_AROUND if size == 3 else ((0, 0), (0, 0))
        shape, spread = (size, size, channels, features), (size * size * channels) ** -0.5
        self.kernel = constant(rngs, shape, 0.0) if zero else drawn(rngs, shape, spread)
        self.bias = constant(rngs, (features,), 0.0) if bias else None

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n _h _w o"]:
        y: Array = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            self.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y if self.bias is None else y + self.bias[...]


class Linear(nnx.Module):
    def __init__(self, channels: int, features: int, *, bias: bool = True, zero: bool = False, rngs: Draw):
        """`zero`: its weights start at 0."""
        shape = (channels, features)
        self.kernel = constant(rngs, shape, 0.0) if zero else drawn(rngs, shape, channels**-0.5)
        self.bias = constant(rngs, (features,), 0.0) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...]


class GroupNorm(nnx.Module):
    """Over the cells and the channels of a group, in float32; mean, then variance: mean(x^2) - mean(x)^2 cancels."""

    def __init__(self, channels: int, groups: int, epsilon: float, *, rngs: Draw):
        if channels % groups:
            raise ValueError(f"GroupNorm splits its channels into groups, but {groups} do not divide {channels}.")
        self.groups, self.epsilon = groups, epsilon
        self.scale = constant(rngs, (channels,), 1.0)
        self.bias = constant(rngs, (channels,), 0.0)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        n, h, w, c = x.shape
        y = x.reshape(n, h * w, self.groups, c // self.groups).astype(jnp.float32)
        y = _normalised(y, (1, 3), self.epsilon).reshape(x.shape)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Over the channels, in float32."""

    def __init__(self, channels: int, *, epsilon: float = 1e-5, rngs: Draw):
        self.epsilon = epsilon
        self.scale = constant(rngs, (channels,), 1.0)
        self.bias = constant(rngs, (channels,), 0.0)

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        y = _normalised(x.astype(jnp.float32), (-1,), self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def _normalised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    x = x - jnp.mean(x, axis=axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + epsilon)
