"""Operations that take parts of an array or put arrays together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.lower.dtypes import onnx_type
from export.lower.errors import UnsupportedError
from export.lower.layout import Tensor, as_tensor, common_order, extended, in_full
from export.lower.reductions import with_axis
from export.lower.registry import Operation, lowers
from export.lower.resize import can_repeat, repeated, repeats
from export.lower.shapes import is_static, same

_END = int(np.iinfo(np.int64).max)


@lowers("concatenate")
def concatenate(operation: Operation) -> Tensor:
    order = common_order(operation.inputs)
    order = extended(order, [axis for axis in range(len(operation.shape)) if axis not in order])
    names = [in_full(operation.graph, value, order) for value in operation.inputs]
    place = order.index(operation.params["dimension"])
    return operation.result(operation.graph.add("Concat", *names, axis=place), order)


@lowers("split")
def split(operation: Operation) -> list[Tensor]:
    axis, sizes = operation.params["axis"], operation.params["sizes"]
    x = with_axis(operation, operation.tensor(), axis)
    operation.require(all(is_static(size) for size in sizes), "splitting the batch is not lowered")
    lengths = operation.graph.integers(*sizes)
    names = operation.graph.add_many("Split", x.name, lengths, outputs=len(sizes), axis=x.axes.index(axis))
    return [_with_shape(x, name, shape) for name, shape in zip(names, operation.shapes, strict=True)]


@lowers("slice")
def slice_(operation: Operation) -> Tensor:
    params, x = operation.params, operation.tensor()
    starts, stops = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    parts = {
        axis: (starts[axis], stops[axis], steps[axis])
        for axis in range(len(starts))
        if not (same(starts[axis], 0) and same(stops[axis], x.shape[axis]) and same(steps[axis], 1))
    }
    return _sliced(operation, x, parts)


@lowers("dynamic_slice")
def dynamic_slice(operation: Operation) -> Tensor:
    """A slice whose start is known at export; as in JAX, the start is moved so that the slice fits."""
    x = operation.tensor()
    lengths = operation.params["slice_sizes"]
    parts = {}
    for axis, length in enumerate(lengths):
        if same(length, x.shape[axis]):
            continue
        start = int(operation.constant(axis + 1, "start indices"))
        operation.require(is_static(x.shape[axis]), "a slice of the batch is not lowered")
        start = max(0, min(start, int(x.shape[axis]) - length))
        parts[axis] = (start, start + length, 1)
    return _sliced(operation, x, parts)


@lowers("rev")
def reverse(operation: Operation) -> Tensor:
    x = operation.tensor()
    axes = [axis for axis in operation.params["dimensions"] if axis in x.order]
    return _sliced(operation, x, dict.fromkeys(axes, (-1, -_END, -1)))


@lowers("pad")
def pad(operation: Operation) -> Tensor:
    """Padding with one value; negative amounts cut off."""
    amounts = operation.params["padding_config"]
    operation.require(all(inner == 0 for *_, inner in amounts), "padding between the elements is not lowered")
    axes = [axis for axis, (low, high, _) in enumerate(amounts) if low or high]
    x = with_axis(operation, operation.tensor(), *axes)
    integers = operation.graph.integers
    cut = {a: (max(0, -amounts[a][0]), min(0, amounts[a][1]) or _END, 1) for a in axes if min(amounts[a][:2]) < 0}
    name = _sliced_name(operation, x, cut)
    places = [x.axes.index(axis) for axis in axes]
    lows, highs = ([max(0, amounts[axis][side]) for axis in axes] for side in (0, 1))
    if any(lows) or any(highs):
        filler = as_tensor(operation.graph, operation.inputs[1]).name
        name = operation.graph.add("Pad", name, integers(*lows, *highs), filler, integers(*places))
    return _with_shape(x, name, operation.shape)


@lowers("gather")
def gather(operation: Operation) -> Tensor:
    """Elements along one axis at places known at export, as x[..., places] or jnp.take(x, places, axis) write it."""
    indices = operation.constant(1, "indices")
    params, x = operation.params, operation.tensor()
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    operation.require(
        len(numbers.start_index_map) == 1 and not numbers.operand_batching_dims,
        "indexing several axes at once is not lowered; index one axis after the other",
    )
    (axis,) = numbers.start_index_map
    operation.require(
        all(same(size, dim) for other, (size, dim) in enumerate(zip(sizes, x.shape, strict=True)) if other != axis),
        "a gather of blocks is not lowered; slice the array first",
    )
    length, places = int(sizes[axis]), indices[..., 0]
    operation.require(
        bool(np.all((places >= 0) & (places + length <= x.shape[axis]))),
        f"an index lies outside the axis of {x.shape[axis]}; JAX would fill or clamp there",
    )
    x = with_axis(operation, x, axis)
    if not numbers.collapsed_slice_dims:
        operation.require(places.ndim == 0, "a gather of overlapping blocks is not lowered")
        return _sliced(operation, x, {axis: (int(places), int(places) + length, 1)})
    if places.ndim == 0:
        taken = operation.graph.add(
            "Gather", x.name, operation.graph.constant(places, np.int64), axis=x.axes.index(axis)
        )
        return _without_axis(operation, x, axis, taken)
    operation.require(places.ndim == 1, "indices of several axes are not lowered; flatten them and reshape the result")
    return _moved_axis(operation, _taken(operation, x, axis, places), axis)


def _taken(operation: Operation, x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    """Places that repeat pixels upsample, evenly spaced ones slice, and only the others gather."""
    size = int(x.shape[axis])
    if (times := repeats(places, size)) is not None and can_repeat(x, axis):
        return repeated(operation.graph, x, axis, times)
    shape = tuple(places.size if other == axis else dim for other, dim in enumerate(x.shape))
    steps = set(np.diff(places).tolist()) or {1}
    if len(steps) == 1 and min(steps) > 0:
        step = steps.pop()
        name = _sliced_name(operation, x, {axis: (int(places[0]), int(places[-1]) + 1, step)})
    else:
        name = operation.graph.add(
            "Gather", x.name, operation.graph.constant(places, np.int64), axis=x.axes.index(axis)
        )
    return _with_shape(x, name, shape)


def _moved_axis(operation: Operation, x: Tensor, axis: int) -> Tensor:
    """JAX puts the gathered axis where offset_dims leave room."""
    offsets = operation.params["dimension_numbers"].offset_dims
    (new,) = [place for place in range(len(operation.shape)) if place not in offsets]
    kept = [other for other in range(len(x.shape)) if other != axis]
    moved = {other: offsets[index] for index, other in enumerate(kept)} | {axis: new}
    return replace(x, shape=operation.shape, axes=tuple(moved[other] for other in x.axes))


def _without_axis(operation: Operation, x: Tensor, axis: int, name: str) -> Tensor:
    kept = [other for other in range(len(x.shape)) if other != axis]
    stored = [(a, size) for a, size in zip(x.axes, x.sizes, strict=True) if a != axis]
    return operation.result(name, [kept.index(a) for a, _ in stored], [size for _, size in stored])


@lowers("iota")
def iota(operation: Operation) -> Tensor:
    """0, 1, 2, ... along an axis whose length is the batch; other counts are folded."""
    graph, axis = operation.graph, operation.params["dimension"]
    count = graph.add("Squeeze", graph.size(operation.shape[axis]))
    numbers = graph.add("Range", graph.constant(0, np.int64), count, graph.constant(1, np.int64))
    name = graph.add("Cast", numbers, to=onnx_type(operation.dtype))
    return operation.result(name, (axis,))


@lowers("dim_as_value")
def dim_as_value(operation: Operation) -> Tensor:
    """A size of the batch as a number, as in a mean over the batch."""
    graph = operation.graph
    size = graph.add("Squeeze", graph.size(operation.params["dim"]))
    return operation.result(graph.add("Cast", size, to=onnx_type(operation.dtype)), ())


def _sliced(operation: Operation, x: Tensor, parts: dict[int, tuple[int, int, int]]) -> Tensor:
    x = with_axis(operation, x, *parts)
    return _with_shape(x, _sliced_name(operation, x, parts), operation.shape)


def _sliced_name(operation: Operation, x: Tensor, parts: dict[int, tuple[int, int, int]]) -> str:
    if not parts:
        return x.name
    if not all(is_static(bound) for part in parts.values() for bound in part):
        raise UnsupportedError("a slice of the batch is not lowered")
    integers = operation.graph.integers
    starts, stops, steps = zip(*parts.values(), strict=True)
    places = integers(*(x.axes.index(axis) for axis in parts))
    return operation.graph.add("Slice", x.name, integers(*starts), integers(*stops), places, integers(*steps))


def _with_shape(x: Tensor, name: str, shape: Sequence[object]) -> Tensor:
    """x after an operation that changed the lengths of stored axes to those of `shape`."""
    shape = tuple(shape)
    sizes = tuple(
        shape[axis] if not same(x.shape[axis], shape[axis]) else size
        for axis, size in zip(x.axes, x.sizes, strict=True)
    )
    return replace(x, name=name, shape=shape, sizes=sizes)
