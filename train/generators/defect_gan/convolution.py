"""The weights of a convolution, and the convolution of stride 1."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.blocks.subpixel import convolve


class Convolution(nnx.Module):
    """A kernel, and a bias where there is one. First weights have variance 1 / fan-in."""

    def __init__(self, k: int, c: int, o: int, *, bias: bool = False, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (k, k, c, o)) / math.sqrt(k * k * c))
        self.bias = nnx.Param(jnp.zeros(o)) if bias else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """Stride 1, "same" zero padding."""
        y = convolve(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]
