"""A stride-1 convolution whose gradient with respect to the kernel is written by hand for a CPU.

XLA's own kernel gradient reaches a third of the speed of its forward pass there. Image by image, the patches of one
image fit into the cache, and one matrix product with the output's gradient is the kernel's. Equal to the plain form up
to rounding.

Shape letters: n images, h x w cells, c input channels, o output channels, k kernel side.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Form = Literal["plain", "fast"]

Maps = Float[Array, "n h w c"]
Kernel = Float[Array, "k k c o"]


def same_conv(x: Maps, kernel: Kernel, form: Form = "plain") -> Float[Array, "n h w o"]:
    """Stride 1, zeros around that keep the size (k odd), no bias."""
    return _fast_conv(x, kernel) if form == "fast" else _conv(x, kernel)


def _conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _fast_conv(x: Array, kernel: Array) -> Array:
    return _conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return _conv(g, flipped), kernel_gradient(x, g, kernel.shape[0])


_fast_conv.defvjp(_forward, _backward)


@partial(jax.jit, static_argnames="side")
def kernel_gradient(x: Maps, g: Float[Array, "n h w o"], side: int) -> Kernel:
    """Sum over images and cells of patch x gradient, one image at a time in a scan of matrix products."""
    _, h, w, c = x.shape
    o, margin = g.shape[-1], side // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))

    def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        one, gradient = image
        patches = [one[i : i + h, j : j + w].reshape(h * w, c) for i in range(side) for j in range(side)]
        return total + jnp.concatenate(patches, axis=1).T @ gradient.reshape(h * w, o), None

    total, _ = jax.lax.scan(add, jnp.zeros((side * side * c, o), x.dtype), (padded, g))
    return total.reshape(side, side, c, o)
