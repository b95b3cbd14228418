"""Convolutions of stride 2 with fewer multiplications: Toom-Cook tiles, for frozen kernels and many images.

Rows of four outputs of a kernel of L taps are a product of polynomials, known from its values at L + 3 points; so L + 3
multiplications do the work of 4 L, in both directions 25 that of 64 (A. Toom, S. Cook; S. Winograd's minimal filtering;
for convolutional networks Lavin and Gray, arXiv:1509.09308). Up to rounding the same as train/blocks/strided.py, whose
definitions of a strided and of a transposed convolution hold here. Between layers the pixels come first, so that the
products are one matrix product for each pair of points and what is between them adds whole blocks.

Shape letters: h x w pixels, n images, c input channels, o output channels, k x k taps, p points, s tiles.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE = 4  # outputs
FEW_PIXELS = 64  # of a map; up to them one matrix product over all is faster than one for each direction
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # of which the first are taken, and infinity

PixelsFirst = Float[Array, "h w n c"]
Values = tuple[tuple[Array, ...], ...]  # of a kernel, [p, p, c, e e o] for each pair of parts


class Part(NamedTuple):
    """One direction: outputs of one parity, or of both where they can share their points."""

    parities: tuple[int, ...]  # in the order in which their outputs follow one another
    start: int  # outputs before the first that counts
    inputs: Float[np.ndarray, "p s h"]  # each tile's points, of the input's pixels
    taps: Float[np.ndarray, "e p k"]  # each parity's points, of the kernel's taps
    tile: Float[np.ndarray, "t p"]  # a tile's outputs, of its products


class Plan(NamedTuple):
    """Of a transposed convolution, hence of the strided one that is its transpose."""

    h: int
    size: int
    pairs: int  # of outputs, one of each parity, that are calculated
    parts: tuple[Part, ...]


@cache
def plan(h: int, k: int, padding: int, size: int) -> Plan:
    """For the transposed convolution of h x h pixels to size x size."""
    of_parity = [_taps(parity, k, padding) for parity in range(2)]
    shared = min(len(taps) for taps, _ in of_parity) > 1  # a single tap needs no points
    groups = [(0, 1)] if shared else [(0,), (1,)]
    parts = [_part(h, k, size, {parity: of_parity[parity] for parity in group}) for group in groups]
    start = parts[0].start
    return Plan(h, size, (start + size + 1) // 2, tuple(parts))


def _taps(parity: int, k: int, padding: int) -> tuple[list[int], int]:
    """Taps t and an offset such that output 2 j + parity is the sum over l of x[j + offset + l] kernel[t[l]]."""
    last = max(t for t in range(k) if (parity + padding - t) % 2 == 0)
    return list(range(last, -1, -2)), (parity + padding - last) // 2


def _part(h: int, k: int, size: int, of_parity: dict[int, tuple[list[int], int]]) -> Part:
    first = min(offset for _, offset in of_parity.values())  # the first input of the first window
    # Window J holds the inputs of outputs 2 J + place, of each parity one
    places = {parity: parity - 2 * (offset - first) for parity, (_, offset) in of_parity.items()}
    parities = sorted(places, key=lambda parity: places[parity])
    start = -min(places.values()) if len(places) > 1 else 0
    windows = max((size - 1 - place) // 2 + 1 for place in places.values())
    length = max(len(taps) for taps, _ in of_parity.values())
    outputs = min(TILE, windows) if length > 1 else 1
    tile, of_taps, of_inputs = minimal_filter(outputs, length)
    tiles = -(-windows // outputs)
    inputs = np.zeros((len(of_inputs), tiles, h))
    for number in range(tiles):
        for i in range(outputs + length - 1):
            pixel = first + number * outputs + i
            if 0 <= pixel < h:
                inputs[:, number, pixel] = of_inputs[:, i]
    taps = np.zeros((len(parities), len(of_taps), k))
    for place, parity in enumerate(parities):
        for number, tap in enumerate(of_parity[parity][0]):
            taps[place, :, tap] = of_taps[:, number]
    return Part(tuple(parities), start, inputs, taps, tile)


def minimal_filter(
    outputs: int, length: int
) -> tuple[Float[np.ndarray, "t p"], Float[np.ndarray, "p l"], Float[np.ndarray, "p i"]]:
    """Matrices T, K, X with sum over l of x[j + l] k[l] = (T ((K k) * (X x)))[j], for j < outputs.

    The product of polynomials of `outputs` and `length` coefficients is known from its values at `outputs + length - 1`
    points, infinity for the highest coefficient; a correlation is its transpose.
    """
    count = outputs + length - 1
    finite = np.array(POINTS[: count - 1])

    def values(coefficients: int) -> np.ndarray:
        highest = np.eye(coefficients)[-1:]
        return np.concatenate([finite[:, None] ** np.arange(coefficients), highest])

    # Rows are scaled so that the inputs' matrix holds whole numbers, and the kernel's, which is folded once, the rest
    scale = np.array([*(np.prod([a - b for b in finite if b != a]) for a in finite), 1.0])
    inputs = np.linalg.inv(values(count)).T * scale[:, None]
    return values(outputs).T, values(length) / scale[:, None], inputs


def fold(kernel: Float[Array, "k k c o"], plan: Plan) -> Values:
    """The kernel's values at all pairs of points."""
    folded = []
    for rows in plan.parts:
        across = []
        for columns in plan.parts:
            values = jnp.einsum("epu,fqv,uvco->pqcefo", rows.taps, columns.taps, kernel)
            across.append(values.reshape(*values.shape[:3], -1).astype(kernel.dtype))
        folded.append(tuple(across))
    return tuple(folded)


def transposed_conv(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    """As train/blocks/strided.py, with the kernel folded and the pixels first."""
    lines = []
    for rows, some in zip(plan.parts, folded, strict=True):
        line = [_pair(x, values, rows, columns, plan) for columns, values in zip(plan.parts, some, strict=True)]
        lines.append(jnp.concatenate(line, axis=3))
    y = jnp.concatenate(lines, axis=1)  # [pairs of rows, 2, pairs of columns, 2, n, o]
    y = y.reshape(2 * y.shape[0], 2 * y.shape[2], *y.shape[4:])
    start = plan.parts[0].start
    return y[start : start + plan.size, start : start + plan.size]


def strided_conv(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    """The transpose: from `plan.size` pixels to `plan.h`, of a kernel that was folded with c and o exchanged."""
    narrow = jnp.zeros((plan.h, plan.h, x.shape[2], folded[0][0].shape[2]), x.dtype)  # only its shape is read
    y: Array
    (y,) = jax.linear_transpose(lambda y: transposed_conv(y, folded, plan), narrow)(x)
    return y


def _pair(x: PixelsFirst, values: Array, rows: Part, columns: Part, plan: Plan) -> Array:
    """[pairs, e, pairs, e, n, o]: what these rows and columns of the output are."""
    n, c = x.shape[2:]
    (p, s, _), (q, z, _) = rows.inputs.shape, columns.inputs.shape
    points = _both(rows.inputs, columns.inputs, x)
    products = points.reshape(p * q, s * z * n, c) @ values.reshape(p * q, c, -1)
    e, f = len(rows.parities), len(columns.parities)
    y = _both(rows.tile[:, None], columns.tile[:, None], products.reshape(p, q, s * z * n, -1))
    y = y.reshape(len(rows.tile), len(columns.tile), s, z, n, e, f, -1).transpose(2, 0, 5, 3, 1, 6, 4, 7)
    y = y.reshape(y.shape[0] * y.shape[1], e, y.shape[3] * y.shape[4], f, n, -1)
    return _sized(_sized(y, plan.pairs, 0), plan.pairs, 2)


def _both(
    rows: Float[np.ndarray, "p s h"], columns: Float[np.ndarray, "q z w"], x: Float[Array, "h w m c"]
) -> Float[Array, "p q s z m c"]:
    """Sums over the pixels of each column and row."""
    (p, s, h), (q, z, w) = rows.shape, columns.shape
    if h * w <= FEW_PIXELS:
        both = jnp.asarray(np.einsum("psh,qzw->pqszhw", rows, columns).reshape(-1, h * w), x.dtype)
        return (both @ x.reshape(h * w, -1)).reshape(p, q, s, z, *x.shape[2:])
    y = jnp.asarray(rows.reshape(-1, h), x.dtype) @ x.reshape(h, -1)
    y = jnp.asarray(columns.reshape(-1, w), x.dtype) @ y.reshape(p * s, w, -1)
    return y.reshape(p, s, q, z, *x.shape[2:]).swapaxes(1, 2)


def _sized(y: Array, count: int, axis: int) -> Array:
    """The first `count` along an axis, or all and zeros behind."""
    if y.shape[axis] >= count:
        return jax.lax.slice_in_dim(y, 0, count, axis=axis)
    pads = [(0, 0)] * y.ndim
    pads[axis] = (0, count - y.shape[axis])
    return jnp.pad(y, pads)
