"""Values of the model with the order in which their axes are stored.

JAX writes images as [n, h, w, c], ONNX convolves [n, c, h, w]. A `Tensor` keeps its logical shape, which is JAX's, and
the order in which its axes lie in the graph. Transposes of the model only relabel axes; data moves where an operation
needs an order that the stored one cannot serve.

An axis that broadcasting has added or stretched is not stored until an operation needs it in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from export.lower.graph import Graph
from export.lower.shapes import Dim, Shape, is_one, is_static, per_image, same


@dataclass(frozen=True)
class Tensor:
    """A value that exists when the model runs."""

    name: str
    dtype: np.dtype
    shape: Shape  # logical
    axes: tuple[int, ...]  # the logical axis that each stored axis holds; an axis not named here has stored size 1
    sizes: tuple[Dim, ...]  # of each stored axis: shape[axis], or 1 where it is still to be stretched

    @property
    def order(self) -> tuple[int, ...]:
        """Stored axes that hold more than one value."""
        return tuple(axis for axis, size in zip(self.axes, self.sizes, strict=True) if not is_one(size))

    def is_stretched(self, axis: int) -> bool:
        return axis not in self.order and not is_one(self.shape[axis])


@dataclass(frozen=True)
class Constant:
    """A value known now. The array has every logical axis, with size 1 where broadcasting stretches it."""

    array: np.ndarray
    shape: Shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(axis for axis, size in enumerate(self.array.shape) if size != 1)

    @property
    def is_stretched(self) -> bool:
        return any(size == 1 and not is_one(dim) for size, dim in zip(self.array.shape, self.shape, strict=True))

    def full(self) -> np.ndarray:
        """The array at its logical shape, which must be static."""
        return np.broadcast_to(self.array, self.shape)

    def scalar(self) -> Any:
        """The one value that all elements share, if the array holds a single element; else None."""
        return self.array.reshape(())[()] if self.array.size == 1 else None


Value: TypeAlias = Tensor | Constant


def stored(name: str, dtype: np.dtype, shape: Sequence[Dim], axes: Sequence[int] | None = None) -> Tensor:
    """A tensor stored in full, in the given order of axes (default: the logical one)."""
    axes = tuple(range(len(shape))) if axes is None else tuple(axes)
    return Tensor(name, np.dtype(dtype), tuple(shape), axes, tuple(shape[axis] for axis in axes))


def channels_first(rank: int) -> tuple[int, ...]:
    """The stored order (n, c, h, w) of a logical [n, h, w, c]."""
    return (0, rank - 1, *range(1, rank - 1))


def as_tensor(graph: Graph, value: Value) -> Tensor:
    if isinstance(value, Tensor):
        return value
    axes = tuple(range(len(value.shape)))
    return Tensor(graph.constant(value.array), value.dtype, value.shape, axes, tuple(value.array.shape))


def renamed(tensor: Tensor, name: str, dtype: np.dtype | None = None) -> Tensor:
    """The result of an operation that works on each element by itself."""
    return replace(tensor, name=name, dtype=tensor.dtype if dtype is None else np.dtype(dtype))


def arranged(graph: Graph, tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor with exactly these axes stored, in this order; stretched axes stay at size 1.

    Every stored axis of more than one value must be named.
    """
    axes = tuple(axes)
    wanted = tuple(axis for axis in axes if axis in tensor.order)
    if wanted != tensor.order:
        rest = tuple(axis for axis in tensor.axes if axis not in wanted)
        target = axes if set(axes) == set(tensor.axes) else (*rest, *wanted)
        permutation = [tensor.axes.index(axis) for axis in target]
        name = graph.add("Transpose", tensor.name, perm=permutation)
        tensor = replace(tensor, name=name, axes=target, sizes=tuple(tensor.sizes[p] for p in permutation))
    if tensor.axes == axes:
        return tensor
    sizes = tuple(tensor.shape[axis] if axis in tensor.order else 1 for axis in axes)
    return replace(tensor, name=_with_other_ones(graph, tensor, axes, sizes), axes=axes, sizes=sizes)


def _with_other_ones(graph: Graph, tensor: Tensor, axes: tuple[int, ...], sizes: tuple[Dim, ...]) -> str:
    """Adds and drops stored axes of size 1 only."""
    graph.stored_sizes[tensor.name] = tensor.sizes
    order = tensor.order
    added = [place for place, axis in enumerate(axes) if axis not in order]
    dropped = [place for place, axis in enumerate(tensor.axes) if axis not in order]
    if not dropped:
        return graph.add("Unsqueeze", tensor.name, graph.integers(*added))
    if not added:
        return graph.add("Squeeze", tensor.name, graph.integers(*dropped))
    return reshaped(graph, tensor.name, tensor.sizes, sizes)


def reshaped(graph: Graph, name: str, before: Sequence[Dim], after: Sequence[Dim]) -> str:
    """A stored tensor in another stored shape, its values in the same order."""
    if len(before) == len(after) and all(same(a, b) for a, b in zip(before, after, strict=True)):
        return name
    graph.stored_sizes[name] = tuple(before)
    symbolic = [place for place, size in enumerate(after) if not is_static(size)]
    if len(symbolic) <= 1:
        return graph.add("Reshape", name, graph.integers(*[size if is_static(size) else -1 for size in after]))
    return graph.add("Reshape", name, graph.sizes(after))


def stretched_to_full(graph: Graph, tensor: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The tensor with these logical axes (default: all) stored at their full size."""
    wanted = tuple(range(len(tensor.shape))) if axes is None else tuple(axes)
    missing = [axis for axis in wanted if axis not in tensor.axes]
    if missing:
        tensor = arranged(graph, tensor, extended(tensor.axes, missing))
    short = [axis for axis in wanted if tensor.is_stretched(axis)]
    if not short:
        return tensor
    target = [tensor.shape[axis] if axis in short else 1 for axis in tensor.axes]
    sizes = tuple(
        tensor.shape[axis] if axis in short else size for axis, size in zip(tensor.axes, tensor.sizes, strict=True)
    )
    return replace(tensor, name=graph.add("Expand", tensor.name, graph.sizes(target)), sizes=sizes)


def in_full(graph: Graph, value: Value, axes: Sequence[int]) -> str:
    """The name of the value stored with all its logical axes in this order, each at its full size."""
    if isinstance(value, Constant) and all(is_static(dim) for dim in value.shape):
        return graph.constant(value.full().transpose(axes))
    tensor = as_tensor(graph, value)
    return stretched_to_full(graph, arranged(graph, tensor, axes)).name


def extended(axes: Sequence[int], missing: Sequence[int]) -> tuple[int, ...]:
    """A stored order with further axes in it, each behind its nearest logical predecessor, else in front."""
    result = list(axes)
    for axis in sorted(missing):
        before = max((other for other in result if other < axis), default=None)
        result.insert(0 if before is None else result.index(before) + 1, axis)
    return tuple(result)


def common_order(values: Sequence[Value]) -> tuple[int, ...]:
    """The stored order that moves the fewest values when these operands broadcast against each other."""
    tensors = sorted((v for v in values if isinstance(v, Tensor)), key=_cost, reverse=True)
    candidates = [_merged([first, *(t for t in tensors if t is not first)]) for first in tensors]
    moved = [sum(_cost(t) for t in tensors if not _serves(order, t)) for order in candidates]
    order = candidates[moved.index(min(moved))] if candidates else ()
    constant_axes = {axis for value in values if isinstance(value, Constant) for axis in value.order}
    return extended(order, sorted(constant_axes - set(order)))


def operand(graph: Graph, value: Value, order: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """The value so stored that it broadcasts, as ONNX does from the right, against others in this order.

    Returns its name and its stored axes, which are the last ones of `order`.
    """
    order = tuple(order)
    if isinstance(value, Tensor):
        if value.axes == order[len(order) - len(value.axes) :]:
            return value.name, value.axes
        places = [order.index(axis) for axis in value.order]
        axes = order[min(places, default=len(order)) :]
        return arranged(graph, value, axes).name, axes
    first = min((order.index(axis) for axis in value.order), default=len(order))
    unstored = tuple(axis for axis in range(value.array.ndim) if axis not in order[first:])
    array = value.array.transpose(*unstored, *order[first:]).reshape([value.array.shape[a] for a in order[first:]])
    return graph.packed_constant(array), order[first:]


def aligned(graph: Graph, values: Sequence[Value], shape: Shape) -> tuple[list[str], tuple[int, ...], tuple[Dim, ...]]:
    """Operands of one elementwise operation: their names, and the axes and sizes of the result as stored."""
    order = common_order(values)
    names, axes = zip(*(operand(graph, value, order) for value in values), strict=True)
    longest = max(axes, key=len)
    real = {axis for value in values for axis in value.order}
    return list(names), longest, tuple(shape[axis] if axis in real else 1 for axis in longest)


def _cost(tensor: Tensor) -> int:
    return per_image(tensor.sizes)


def _serves(order: tuple[int, ...], tensor: Tensor) -> bool:
    return tuple(axis for axis in order if axis in tensor.order) == tensor.order


def _merged(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The first tensor's order with the axes that only later ones store put behind the axis they follow there."""
    result = list(tensors[0].axes)
    for tensor in tensors[1:]:
        for before, axis in zip((None, *tensor.order), tensor.order, strict=False):
            if axis not in result:
                result.insert(0 if before is None else result.index(before) + 1, axis)
    return tuple(result)
