"""The layers that published networks are made of, with weights that no optimizer sees.

Shape letters: n images, h x w pixels or cells, c channels (channels last), i and o channels in and out, ... anything.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Frozen(nnx.Variable):
    """An array that is never trained: nnx.split(model, nnx.Param, ...) leaves it to the rest."""


Draw = nnx.Rngs | None  # None: shapes in place of arrays, for a network that is about to be filled


def drawn(rngs: Draw, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> Frozen:
    """Normal numbers of variance gain / fan_in."""
    if rngs is None:
        return Frozen(_shape(shape))
    return Frozen(jax.random.normal(rngs.params(), shape, jnp.float32) * (gain / fan_in) ** 0.5)


def filled(rngs: Draw, size: int, value: float) -> Frozen:
    """One number per channel, all equal."""
    if rngs is None:
        return Frozen(_shape((size,)))
    return Frozen(jnp.full(size, value, jnp.float32))


def _shape(shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)  # type: ignore[no-untyped-call]


class Conv(nnx.Module):
    """Convolution with PyTorch's padding: as many zeros on every side; `padding` may also give (before, after)."""

    def __init__(
        self,
        channels: int,
        features: int,
        size: int,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        gain: float = 2.0,
        rngs: Draw,
    ):
        """`gain` 2 keeps the variance of random weights up through a ReLU."""
        self.stride, self.groups = stride, groups
        self.padding = (padding, padding) if isinstance(padding, int) else padding
        fan_in = size * size * channels // groups
        self.kernel = drawn(rngs, (size, size, channels // groups, features), fan_in, gain)
        self.bias = filled(rngs, features, 0.0)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + self.bias[...]


class Linear(nnx.Module):
    def __init__(self, channels: int, features: int, *, rngs: Draw):
        self.kernel = drawn(rngs, (channels, features), channels)
        self.bias = filled(rngs, features, 0.0)

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        return x @ self.kernel[...] + self.bias[...]


class LayerNorm(nnx.Module):
    """Over the channels, with a scale and a shift each."""

    def __init__(self, channels: int, *, epsilon: float = 1e-6, rngs: Draw):
        self.epsilon = epsilon
        self.scale = filled(rngs, channels, 1.0)
        self.bias = filled(rngs, channels, 0.0)

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(x**2, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """3 x 3, stride 2; the border of one is minus infinity, so it never wins."""
    window, strides, padding = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    pooled: Array = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    return pooled
