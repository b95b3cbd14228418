"""Operations that take parts of an array or put arrays together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.lower.dtypes import onnx_type
from export.lower.errors import UnsupportedError
from export.lower.layout import Tensor, arranged, as_tensor, common_order, extended, in_full
from export.lower.lookup import looked_up
from export.lower.reductions import with_axis
from export.lower.registry import Operation, lowers
from export.lower.resize import repeated, repeats
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
    """Elements at places known at export, as x[:, 1:5:2, 0], x[..., places] or jnp.take(x, places, axis) write it.

    JAX numbers every indexed axis; those that a constant or one axis of the result selects are taken one by one. Places
    known only when the model runs choose whole rows of a table.
    """
    if isinstance(operation.inputs[1], Tensor):
        return looked_up(operation, operation.inputs[1])
    indices, x = operation.constant(1, "indices"), operation.tensor()
    numbers = operation.params["dimension_numbers"]
    operation.require(not numbers.operand_batching_dims, "a gather of each image by its own places is not lowered")
    kept = [axis for axis in range(len(x.shape)) if axis not in numbers.collapsed_slice_dims]
    becomes = dict(zip(kept, numbers.offset_dims, strict=True))  # axis -> axis of the result
    grid = [place for place in range(len(operation.shape)) if place not in numbers.offset_dims]
    starts: dict[int, int] = {}
    for column, axis in enumerate(numbers.start_index_map):
        places = indices[..., column]
        _require_inside(operation, x, axis, places)
        along = [g for g in range(places.ndim) if np.any(places != places.take([0], axis=g))]
        if not along:
            starts[axis] = int(places.flat[0])
            continue
        operation.require(
            len(along) == 1 and axis not in becomes and grid[along[0]] not in becomes.values(),
            "indexing several axes together is not lowered; index one axis after the other",
        )
        line = np.moveaxis(places, along[0], 0).reshape(places.shape[along[0]], -1)[:, 0]
        x = _taken(operation, with_axis(operation, x, axis), axis, line)
        becomes[axis] = grid[along[0]]
    x = _cut(operation, x, starts)
    x = arranged(operation.graph, x, [axis for axis in x.axes if axis in becomes])
    return replace(x, shape=operation.shape, axes=tuple(becomes[axis] for axis in x.axes))


def _require_inside(operation: Operation, x: Tensor, axis: int, places: np.ndarray) -> None:
    operation.require(is_static(x.shape[axis]), "indexing the batch is not lowered")
    last = int(x.shape[axis]) - operation.params["slice_sizes"][axis]
    operation.require(
        bool(np.all((places >= 0) & (places <= last))),
        f"an index lies outside the axis of {x.shape[axis]}; JAX would fill or clamp there",
    )


def _cut(operation: Operation, x: Tensor, starts: dict[int, int]) -> Tensor:
    """The slices of a gather: slice_sizes elements from each start, or from 0 where an axis is not indexed."""
    sizes = operation.params["slice_sizes"]
    indexed = set(operation.params["dimension_numbers"].start_index_map)
    parts = {}
    for axis, size in enumerate(sizes):
        is_taken = axis in indexed and axis not in starts
        if not is_taken and not same(size, x.shape[axis]):
            start = starts.get(axis, 0)
            parts[axis] = (start, start + size, 1)
    shape = tuple(sizes[axis] if axis in parts else dim for axis, dim in enumerate(x.shape))
    x = with_axis(operation, x, *parts)
    return _with_shape(x, _sliced_name(operation, x, parts), shape)


def _taken(operation: Operation, x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    """Places that repeat pixels upsample, evenly spaced ones slice, and only the others gather."""
    size = int(x.shape[axis])
    times = repeats(places, size)
    if times is not None and (upsampled := repeated(operation.graph, x, axis, times)) is not None:
        return upsampled
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


@lowers("tile")
def tile(operation: Operation) -> Tensor:
    """Whole copies one after the other; an axis of size 1 is only stretched."""
    times = operation.params["reps"]
    axes = [axis for axis, count in enumerate(times) if count != 1]
    x = operation.tensor()
    copied = [axis for axis in axes if not same(x.shape[axis], 1)]
    x = with_axis(operation, x, *copied)
    if not copied:
        return replace(x, shape=operation.shape)
    counts = operation.graph.integers(*(times[axis] if axis in copied else 1 for axis in x.axes))
    name = operation.graph.add("Tile", x.name, counts)
    sizes = tuple(operation.shape[axis] if axis in copied else size for axis, size in zip(x.axes, x.sizes, strict=True))
    return Tensor(name, x.dtype, operation.shape, x.axes, sizes)


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
