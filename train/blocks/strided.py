"""Convolutions of stride 2, and their transposes, of any kernel and padding: as XLA has them, and as matrix products.

XLA runs transposed convolutions, and every gradient of a strided one, slowly on a CPU, and inside a loop more so. As
matrix products both are as fast inside a loop as outside, and nothing is multiplied by the zeros between pixels. Of a
large map a transposed convolution is one product of every pixel with all taps, whose parts are added where they fall;
of a small one, where much would fall outside, four products, one for each parity of the output's row and column, of
gathered pixels with the taps that reach them. All forms agree up to rounding; `form` picks one.

Shape letters: n images, h x w pixels, k x k taps, c input channels, o output channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Form = Literal["plain", "matmul"]
Convolution = Callable[[Array, Array, int, int], Array]  # x, kernel, size, padding
LAYOUT = ("NHWC", "HWIO", "NHWC")
SMALL_MAP = 4  # pixels; on 4 x 4 a kernel of 3 x 3 reaches outside with every third tap


def strided_conv(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"], size: int, padding: int, form: Form
) -> Float[Array, "n _size _size o"]:
    """Output pixel j is the sum over taps t of x[2 j - padding + t] times kernel[t]; pixels outside x are 0."""
    k, h = kernel.shape[0], x.shape[1]
    after = 2 * (size - 1) + k - padding - h  # how far the last pixel's taps reach beyond x
    if form == "plain":
        pads = [(padding, after)] * 2
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=LAYOUT)
    return _strided(x, kernel, size, padding)


def transposed_conv(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"], size: int, padding: int, form: Form
) -> Float[Array, "n _size _size o"]:
    """Input pixel i adds x[i] times kernel[t] to output pixel 2 i - padding + t."""
    k, h = kernel.shape[0], x.shape[1]
    if form == "plain":
        before = k - 1 - padding
        pads = [(before, size + k - 1 - before - (2 * h - 1))] * 2
        flipped = kernel[::-1, ::-1]
        return jax.lax.conv_general_dilated(x, flipped, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=LAYOUT)
    return _transposed(x, kernel, size, padding)


def taps_of(x: Float[Array, "n h w c"], k: int, size: int, padding: int) -> Float[Array, "n s s t"]:
    """What each output pixel of a strided convolution is made of: its k k c numbers side by side."""
    after = max(2 * (size - 1) + k - padding - x.shape[1], 0)
    x = jnp.pad(x, ((0, 0), (padding, after), (padding, after), (0, 0)))
    reach = 2 * size - 1
    return jnp.concatenate([x[:, u : u + reach : 2, v : v + reach : 2] for u in range(k) for v in range(k)], axis=-1)


def spread(products: Float[Array, "n h w k k o"], size: int, padding: int) -> Float[Array, "n s s o"]:
    """A transposed convolution of every pixel's products with all taps: each is added where it falls."""
    return _interleaved(partial(_spread, products, (size + 1) // 2, padding), size)


def _by_taps(x: Array, kernel: Array, size: int, padding: int) -> Array:
    """A strided convolution as one product of every output pixel's taps with all of the kernel."""
    return taps_of(x, kernel.shape[0], size, padding) @ kernel.reshape(-1, kernel.shape[-1])


def _by_parities(x: Array, kernel: Array, size: int, padding: int) -> Array:
    """A transposed convolution as the four maps of its output's even and odd rows and columns."""
    k = kernel.shape[0]
    if x.shape[1] <= SMALL_MAP:
        return _interleaved(partial(_gathered, x, kernel, size, padding), size)
    products = x @ kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)
    return spread(products.reshape(*x.shape[:3], k, k, -1), size, padding)


def _interleaved(of_parity: Callable[[int, int], Array], size: int) -> Array:
    """One map of those of even and odd rows and columns."""
    rows = []
    for parity in range(2):
        row = [of_parity(parity, other) for other in range(2)]
        rows.append(jnp.concatenate([y[:, :, :, None] for y in row], axis=3))  # [n, half, half, 2, o]
    y = jnp.concatenate([y[:, :, None] for y in rows], axis=2)  # [n, half, 2, half, 2, o]
    n, half = y.shape[:2]
    y = y.reshape(n, 2 * half, 2 * half, -1)
    return y if size == 2 * half else y[:, :size, :size]


def _spread(products: Array, half: int, padding: int, row: int, column: int) -> Array:
    """Output pixels (2 j + row, 2 i + column) as a sum over the products of the taps that reach them."""
    h, k = products.shape[1], products.shape[3]
    down, across = ([t for t in range(k) if (parity + padding - t) % 2 == 0] for parity in (row, column))
    parts = []
    for u in down:
        for v in across:
            pads = [(-by, half - h + by, 0) for by in ((row + padding - u) // 2, (column + padding - v) // 2)]
            zero = jnp.zeros((), products.dtype)
            parts.append(jax.lax.pad(products[:, :, :, u, v], zero, [(0, 0, 0), *pads, (0, 0, 0)]))  # < 0: cut off
    return sum(parts[1:], parts[0])


def _gathered(x: Array, kernel: Array, size: int, padding: int, row: int, column: int) -> Array:
    """The same from the pixels that reach them, filled up to one size for all four."""
    k, half = kernel.shape[0], (size + 1) // 2
    down, across = ([t for t in range(k) if (parity + padding - t) % 2 == 0] for parity in (row, column))
    n_down, n_across = (size - row + 1) // 2, (size - column + 1) // 2
    taps = [
        _shifted(_shifted(x, (row + padding - u) // 2, n_down, axis=1), (column + padding - v) // 2, n_across, axis=2)
        for u in down
        for v in across
    ]
    some = kernel[down[0] :: 2, across[0] :: 2]  # the taps of a parity are every other one
    y = jnp.concatenate(taps, axis=-1) @ some.reshape(-1, kernel.shape[-1])
    return jnp.pad(y, ((0, 0), (0, half - n_down), (0, half - n_across), (0, 0)))


def _shifted(x: Array, by: int, count: int, axis: int) -> Array:
    """x[by : by + count] along an axis, with zeros where there is nothing."""
    start, stop = max(by, 0), min(by + count, x.shape[axis])
    inside = jax.lax.slice_in_dim(x, start, stop, axis=axis)
    pads = [(0, 0)] * x.ndim
    pads[axis] = (start - by, by + count - stop)
    return jnp.pad(inside, pads) if pads[axis] != (0, 0) else inside


def _adjoint(forward: Convolution, backward: Convolution) -> Convolution:
    """`forward` with `backward` as the gradient of its input: each of the two is the other's transpose.

    Written out by JAX, the gradient of a slice is a whole map of zeros, and that of sixteen slices a sum of sixteen.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def convolution(x: Array, kernel: Array, size: int, padding: int) -> Array:
        return forward(x, kernel, size, padding)

    def with_inputs(x: Array, kernel: Array, size: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
        return convolution(x, kernel, size, padding), (x, kernel)

    def gradients(size: int, padding: int, inputs: tuple[Array, Array], of_output: Array) -> tuple[Array, Array]:
        x, kernel = inputs
        _, of_kernel = jax.vjp(lambda kernel: forward(x, kernel, size, padding), kernel)
        return backward(of_output, kernel.swapaxes(2, 3), x.shape[1], padding), of_kernel(of_output)[0]

    convolution.defvjp(with_inputs, gradients)
    stated: Convolution = convolution
    return stated


def _of_strided(of_output: Array, kernel: Array, size: int, padding: int) -> Array:
    return _transposed(of_output, kernel, size, padding)


_strided = _adjoint(_by_taps, _of_strided)
_transposed = _adjoint(_by_parities, _strided)
