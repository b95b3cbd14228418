"""Convolutions of stride 2 with fewer multiplications: Toom-Cook tiles, for frozen kernels and many images.

Rows of four outputs of a kernel of L taps are a product of polynomials, known from its values at L + 3 points; so L + 3
multiplications do the work of 4 L, in both directions 25 that of 64 (A. Toom, S. Cook; S. Winograd's minimal filtering;
for convolutional networks Lavin and Gray, arXiv:1509.09308). At the border, where most of a window lies outside, the
few taps that are left are taken as they are. Up to rounding the same as train/blocks/strided.py, whose definitions of a
strided and of a transposed convolution hold here. Between layers the pixels come first, so that the products are one
matrix product for each pair of points and what is between them adds whole blocks. Each of the two convolutions is the
other's transpose, written out: JAX's own adds maps of zeros where parts are joined.

Shape letters: h x w pixels, n images, c input channels, o output channels, k x k taps, p points, s tiles, e and f
parities, t and u outputs of a tile.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE = 4  # outputs of each parity at most; eight are 10 % faster and a hundred times less exact
FEW_PIXELS = 64  # of a map; up to them one matrix product over all is faster than one for each direction
POINTS = (0.0, 1.0, -1.0, 2.0, -0.5)  # of which the first are taken, and infinity; with -2 three times the error

PixelsFirst = Float[Array, "h w n c"]
Values = tuple[tuple[Array, ...], ...]  # of a kernel, [p q, c, e f o] for each pair of parts
Convolution = Callable[[Array, Values, "Plan"], Array]


class Part(NamedTuple):
    """Some outputs of one direction: in a row, or every other one."""

    outputs: int
    skipped: int  # that are calculated before the first of them
    first: int  # pixel of the input that it is made of
    inputs: Float[np.ndarray, "p s h"]  # each tile's points, of the pixels from the first on
    taps: Float[np.ndarray, "e p k"]  # each parity's points, of the kernel's taps
    tile: Float[np.ndarray, "t p"]  # a tile's outputs, of its points' products

    @property
    def cost(self) -> int:
        """Products."""
        return self.inputs[..., 0].size * self.taps[:, 0, 0].size


class Plan(NamedTuple):
    """Of a transposed convolution, hence of the strided one that is its transpose; the same in both directions."""

    h: int
    size: int
    parts: tuple[Part, ...]
    in_turn: bool  # whether the parts' outputs alternate; or else they follow one another


class Windows(NamedTuple):
    """Window J: the input pixels from J + first on, of which the outputs 2 J + place are made, one of each parity."""

    first: int
    places: tuple[int, ...]  # one after the other
    taps: tuple[tuple[int, ...], ...]  # of each place, on the window's pixels from the first on
    total: int  # of windows that some output counts of

    @property
    def length(self) -> int:
        return max(len(taps) for taps in self.taps)

    def counted(self, number: int, size: int) -> list[int]:
        """The indices of places whose output exists."""
        return [i for i, place in enumerate(self.places) if 0 <= 2 * number + place < size]


@cache
def plan(h: int, k: int, padding: int, size: int) -> Plan:
    """For the transposed convolution of h x h pixels to size x size."""
    of_parity = [_taps(parity, k, padding) for parity in range(2)]
    if min(len(taps) for taps, _ in of_parity) == 1:  # a single tap needs no points
        lines = [_windows(size, {parity: taps}) for parity, taps in enumerate(of_parity)]
        return Plan(h, size, tuple(_tiles(h, k, size, line, 0, line.total) for line in lines), in_turn=True)
    line = _windows(size, dict(enumerate(of_parity)))
    ways = [_in_a_row(h, k, size, line, before, after) for before, after in product(range(2), repeat=2)]
    return Plan(h, size, min(ways, key=lambda parts: (sum(part.cost for part in parts), len(parts))), in_turn=False)


def _taps(parity: int, k: int, padding: int) -> tuple[tuple[int, ...], int]:
    """Taps t and an offset such that output 2 j + parity is the sum over l of x[j + offset + l] kernel[t[l]]."""
    last = max(t for t in range(k) if (parity + padding - t) % 2 == 0)
    return tuple(range(last, -1, -2)), (parity + padding - last) // 2


def _windows(size: int, of_parity: dict[int, tuple[tuple[int, ...], int]]) -> Windows:
    first = min(offset for _, offset in of_parity.values())
    by_place = {parity - 2 * (offset - first): taps for parity, (taps, offset) in of_parity.items()}
    places = tuple(sorted(by_place))
    total = max((size - 1 - place) // 2 + 1 for place in places)
    return Windows(first, places, tuple(by_place[place] for place in places), total)


def _in_a_row(h: int, k: int, size: int, line: Windows, before: int, after: int) -> tuple[Part, ...]:
    """Tiles, and of so many windows before and after them the taps as they are."""
    last = line.total - after
    parts = [_taps_as_they_are(h, k, size, line, number) for number in range(before)]
    if last > before:
        parts.append(_tiles(h, k, size, line, before, last))
    parts += [_taps_as_they_are(h, k, size, line, number) for number in range(max(last, before), line.total)]
    return tuple(parts)


def _tiles(h: int, k: int, size: int, line: Windows, start: int, stop: int) -> Part:
    """Windows `start` to `stop`, in tiles of one size."""
    count = -(-(stop - start) // TILE) if line.length > 1 else stop - start
    outputs = -(-(stop - start) // count)
    tile, of_taps, of_inputs = minimal_filter(outputs, line.length)
    inputs = np.zeros((len(of_inputs), count, h))
    for number in range(count):
        for i in range(outputs + line.length - 1):
            pixel = line.first + start + number * outputs + i
            if 0 <= pixel < h:
                inputs[:, number, pixel] = of_inputs[:, i]
    taps = np.zeros((len(line.places), len(of_taps), k))
    for place, some in enumerate(line.taps):
        taps[place][:, list(some)] = of_taps[:, : len(some)]
    begin, end = 2 * start + line.places[0], 2 * (stop - 1) + line.places[-1] + 1
    if len(line.places) == 1:
        return Part(stop - start, 0, 0, inputs, taps, tile)
    return Part(min(end, size) - max(begin, 0), max(-begin, 0), 0, inputs, taps, tile)


def _taps_as_they_are(h: int, k: int, size: int, line: Windows, number: int) -> Part:
    """One window, with its pixels for points."""
    places = line.counted(number, size)
    used = [at for at in range(line.length) if any(at < len(line.taps[place]) for place in places)]
    used = [at for at in used if 0 <= line.first + number + at < h]
    taps = np.zeros((len(places), len(used), k))
    for point, at in enumerate(used):
        for e, place in enumerate(places):
            if at < len(line.taps[place]):
                taps[e, point, line.taps[place][at]] = 1
    return Part(
        len(places), 0, line.first + number + used[0], np.eye(len(used))[:, None], taps, np.ones((1, len(used)))
    )


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
            across.append(values.reshape(-1, kernel.shape[2], values[0, 0, 0].size).astype(kernel.dtype))
        folded.append(tuple(across))
    return tuple(folded)


def _upwards(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    n, lines = x.shape[2], []
    for rows, values in zip(plan.parts, folded, strict=True):
        pairs = zip(plan.parts, values, strict=True)
        line = [_outputs(_points(x, rows, columns) @ of_kernel, rows, columns, n) for columns, of_kernel in pairs]
        lines.append(_joined(line, plan, axis=1))
    return _joined(lines, plan, axis=0)


def _downwards(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    maps = []
    for rows, line, values in zip(plan.parts, _parted(x, plan, axis=0), folded, strict=True):
        for columns, outputs, of_kernel in zip(plan.parts, _parted(line, plan, axis=1), values, strict=True):
            points = _products(outputs, rows, columns) @ of_kernel.mT
            maps.append((_pixels(points, rows, columns, x.shape[2]), rows.first, columns.first))
    whole, *others = sorted(maps, key=lambda part: -part[0].size)  # the tiles reach all pixels
    y = whole[0]
    for part, row, column in others:
        if part.shape == y.shape:
            y = y + part
            continue
        there = jax.lax.slice(y, (row, column, 0, 0), (row + part.shape[0], column + part.shape[1], *y.shape[2:]))
        y = jax.lax.dynamic_update_slice(y, there + part, (row, column, 0, 0))
    return y


def _points(x: PixelsFirst, rows: Part, columns: Part) -> Float[Array, "pq szn c"]:
    (p, s, h), (q, z, w), (n, c) = rows.inputs.shape, columns.inputs.shape, x.shape[2:]
    x = x[rows.first : rows.first + h, columns.first : columns.first + w]
    if _are_pixels(rows) and _are_pixels(columns):
        points = x
    elif h * w <= FEW_PIXELS:
        points = jnp.asarray(_by_pixel(rows, columns), x.dtype) @ x.reshape(h * w, -1)
    else:
        points = jnp.asarray(rows.inputs.reshape(p * s, h), x.dtype) @ x.reshape(h, -1)
        points = jnp.asarray(columns.inputs.reshape(q * z, w), x.dtype) @ points.reshape(p * s, w, -1)
        points = points.reshape(p, s, q, z, -1).swapaxes(1, 2)
    return points.reshape(p * q, s * z * n, c)


def _pixels(points: Float[Array, "pq szn c"], rows: Part, columns: Part, n: int) -> PixelsFirst:
    """The transpose of `_points`."""
    (p, s, h), (q, z, w), c = rows.inputs.shape, columns.inputs.shape, points.shape[2]
    if _are_pixels(rows) and _are_pixels(columns):
        x = points
    elif h * w <= FEW_PIXELS:
        x = jnp.asarray(_by_pixel(rows, columns).T, points.dtype) @ points.reshape(-1, n * c)
    else:
        x = points.reshape(p, q, s, z, n * c).swapaxes(1, 2).reshape(p * s, q * z, n * c)
        x = jnp.asarray(columns.inputs.reshape(q * z, w).T, x.dtype) @ x
        x = jnp.asarray(rows.inputs.reshape(p * s, h).T, x.dtype) @ x.reshape(p * s, -1)
    return x.reshape(h, w, n, c)


def _outputs(products: Float[Array, "pq szn efo"], rows: Part, columns: Part, n: int) -> Float[Array, "i j n o"]:
    """Of these rows and columns."""
    (e, _, _), (f, _, _), s, z = rows.taps.shape, columns.taps.shape, rows.inputs.shape[1], columns.inputs.shape[1]
    tiles = jnp.asarray(_tile(rows, columns), products.dtype) @ products.reshape(len(products), -1)
    tiles = tiles.reshape(len(rows.tile), len(columns.tile), s, z, n, e, f, -1).transpose(2, 0, 5, 3, 1, 6, 4, 7)
    y = tiles.reshape(len(rows.tile) * s * e, len(columns.tile) * z * f, n, -1)
    for axis, part in enumerate((rows, columns)):
        y = jax.lax.slice_in_dim(y, part.skipped, part.skipped + part.outputs, axis=axis)
    return y


def _products(y: Float[Array, "i j n o"], rows: Part, columns: Part) -> Float[Array, "pq szn efo"]:
    """The transpose of `_outputs`."""
    (e, _, _), (f, _, _), s, z = rows.taps.shape, columns.taps.shape, rows.inputs.shape[1], columns.inputs.shape[1]
    t, u, (n, o) = len(rows.tile), len(columns.tile), y.shape[2:]
    pads = [
        (part.skipped, whole - part.skipped - part.outputs) for part, whole in ((rows, s * t * e), (columns, z * u * f))
    ]
    y = jnp.pad(y, [*pads, (0, 0), (0, 0)])
    tiles = y.reshape(s, t, e, z, u, f, n, o).transpose(1, 4, 0, 3, 6, 2, 5, 7)
    products = jnp.asarray(_tile(rows, columns).T, y.dtype) @ tiles.reshape(t * u, -1)
    return products.reshape(-1, s * z * n, e * f * o)


def _joined(parts: list[Array], plan: Plan, axis: int) -> Array:
    """All outputs of one direction."""
    if not plan.in_turn:
        return jnp.concatenate(parts, axis=axis)
    even, odd = parts
    if odd.shape[axis] < even.shape[axis]:
        odd = jnp.pad(odd, [(0, int(direction == axis)) for direction in range(odd.ndim)])
    y = jnp.stack([even, odd], axis=axis + 1)
    y = y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])
    return jax.lax.slice_in_dim(y, 0, plan.size, axis=axis)


def _parted(y: Array, plan: Plan, axis: int) -> list[Array]:
    """The transpose of `_joined`."""
    if plan.in_turn:
        return [jax.lax.slice_in_dim(y, parity, None, stride=2, axis=axis) for parity in range(2)]
    return jnp.split(y, np.cumsum([part.outputs for part in plan.parts])[:-1], axis=axis)


def _are_pixels(part: Part) -> bool:
    """Whether there is a point for each pixel, and nothing to be calculated."""
    return len(part.inputs) == 1 and np.array_equal(part.inputs[0], np.eye(part.inputs.shape[2]))


def _by_pixel(rows: Part, columns: Part) -> Float[np.ndarray, "pqsz hw"]:
    (p, s, h), (q, z, w) = rows.inputs.shape, columns.inputs.shape
    points: Float[np.ndarray, "..."] = np.einsum("psh,qzw->pqszhw", rows.inputs, columns.inputs)
    return points.reshape(p * q * s * z, h * w)


def _tile(rows: Part, columns: Part) -> Float[np.ndarray, "tu pq"]:
    (t, p), (u, q) = rows.tile.shape, columns.tile.shape
    outputs: Float[np.ndarray, "..."] = np.einsum("tp,uq->tupq", rows.tile, columns.tile)
    return outputs.reshape(t * u, p * q)


def _adjoint(forward: Convolution, backward: Convolution) -> Convolution:
    """`forward` with `backward` as the gradient of its input."""

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def convolution(x: Array, folded: Values, plan: Plan) -> Array:
        return forward(x, folded, plan)

    def with_inputs(x: Array, folded: Values, plan: Plan) -> tuple[Array, tuple[Array, Values]]:
        return convolution(x, folded, plan), (x, folded)

    def gradients(plan: Plan, inputs: tuple[Array, Values], of_output: Array) -> tuple[Array, Values]:
        x, folded = inputs
        _, of_folded = jax.vjp(lambda folded: forward(x, folded, plan), folded)
        return backward(of_output, folded, plan), of_folded(of_output)[0]

    convolution.defvjp(with_inputs, gradients)
    stated: Convolution = convolution
    return stated


_up = _adjoint(_upwards, _downwards)
_down = _adjoint(_downwards, _upwards)


def transposed_conv(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    """As train/blocks/strided.py, with the kernel folded and the pixels first."""
    return _up(x, folded, plan)


def strided_conv(x: PixelsFirst, folded: Values, plan: Plan) -> Float[Array, "s s n o"]:
    """The transpose: from `plan.size` pixels to `plan.h`, of a kernel that was folded with c and o exchanged."""
    return _down(x, folded, plan)
