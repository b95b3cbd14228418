"""Operations that reduce axes or run along one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from export.lower.dtypes import BOOL, FLOAT32, INT32, onnx_type
from export.lower.graph import Graph
from export.lower.layout import Tensor, arranged, extended, renamed, stretched_to_full
from export.lower.registry import Operation, lowers
from export.lower.shapes import is_one, is_static

REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
}


@lowers(*REDUCTIONS)
def reduce(operation: Operation) -> Tensor:
    x = operation.tensor()
    operation.require(x.dtype in (FLOAT32, INT32), f"a reduction of {x.dtype} is not lowered; convert to float32 first")
    return _reduced(operation, REDUCTIONS[operation.primitive], x)


@lowers("reduce_and", "reduce_or")
def reduce_logic(operation: Operation) -> Tensor:
    x = operation.tensor()
    operation.require(x.dtype == BOOL, f"a logical reduction of {x.dtype} is not lowered; compare with 0 first")
    add = operation.graph.add
    numbers = renamed(x, add("Cast", x.name, to=onnx_type(INT32)), INT32)
    result = _reduced(operation, "ReduceMin" if operation.primitive == "reduce_and" else "ReduceMax", numbers)
    return renamed(result, add("Cast", result.name, to=onnx_type(BOOL)), BOOL)


@lowers("argmax", "argmin")
def arg_extreme(operation: Operation) -> Tensor:
    """The first of equal extremes, as in JAX."""
    x = operation.tensor()
    (axis,) = operation.params["axes"]
    x = with_axis(operation, x, axis)
    op = "ArgMax" if operation.primitive == "argmax" else "ArgMin"
    name = operation.graph.add(op, x.name, axis=x.axes.index(axis), keepdims=0)
    name = operation.graph.add("Cast", name, to=onnx_type(operation.dtype))
    return _without(operation, x, (axis,), name)


@lowers("cumsum")
def cumulative_sum(operation: Operation) -> Tensor:
    axis = operation.params["axis"]
    x = with_axis(operation, operation.tensor(), axis)
    place = operation.graph.constant(x.axes.index(axis), np.int64)
    return renamed(x, operation.graph.add("CumSum", x.name, place, reverse=int(operation.params["reverse"])))


@lowers("top_k")
def top_k(operation: Operation) -> list[Tensor]:
    """Values and places of the k largest along one axis (the last, in older JAX the only choice)."""
    x = operation.tensor()
    axis = operation.params.get("axis", len(x.shape) - 1) % len(x.shape)
    k = operation.params["k"]
    return _largest(operation, with_axis(operation, x, axis), axis, k, largest=True)


@lowers("sort")
def sort(operation: Operation) -> Tensor:
    """Ascending order of one operand along an axis of known length."""
    operation.require(len(operation.inputs) == 1, "sorting several arrays together is not lowered")
    axis = operation.params["dimension"]
    x = with_axis(operation, operation.tensor(), axis)
    operation.require(is_static(x.shape[axis]), "sorting along the batch is not lowered")
    return _largest(operation, x, axis, int(x.shape[axis]), largest=False)[0]


def with_axis(operation: Operation, x: Tensor, *axes: int) -> Tensor:
    """The tensor with these logical axes stored in full."""
    missing = [axis for axis in axes if axis not in x.axes]
    if missing:
        x = arranged(operation.graph, x, extended(x.axes, missing))
    return stretched_to_full(operation.graph, x, axes)


def _reduced(operation: Operation, op: str, x: Tensor) -> Tensor:
    axes = tuple(axis for axis in operation.params["axes"] if axis in x.axes or not is_one(x.shape[axis]))
    x = with_axis(operation, x, *axes)
    if not axes:
        return _without(operation, x, tuple(operation.params["axes"]), x.name)
    places = sorted(x.axes.index(axis) for axis in axes)
    if op == "ReduceSum" and (stages := _stages(x, places)) is not None:
        name = _sum_in_stages(operation.graph, x, places[0], stages)
    else:
        name = operation.graph.add(op, x.name, operation.graph.integers(*places), keepdims=0)
    return _without(operation, x, tuple(operation.params["axes"]), name)


def _stages(x: Tensor, places: Sequence[int]) -> tuple[int, int] | None:
    """Two factors of the channels that are summed. ONNX Runtime sums an axis that is not the last 8 to 15 times faster
    in two stages than in one (float32, 128 to 64 channels; benchmarks/fastflow_speed.py gained 2 %).
    """
    place, *others = places
    if others or x.dtype != FLOAT32 or place + 1 == len(x.sizes) or not all(map(is_static, x.sizes[place:])):
        return None
    size = int(x.sizes[place])
    first = next((k for k in range(math.isqrt(size), 1, -1) if size % k == 0), 1)
    return (first, size // first) if first > 3 else None


def _sum_in_stages(graph: Graph, x: Tensor, place: int, stages: tuple[int, int]) -> str:
    """Over the second factor, then over the first."""
    sizes = [0] * place + [*stages, *map(int, x.sizes[place + 1 :])]  # 0: as it is
    name = graph.add("Reshape", x.name, graph.integers(*sizes))
    name = graph.add("ReduceSum", name, graph.integers(place + 1), keepdims=0)
    return graph.add("ReduceSum", name, graph.integers(place), keepdims=0)


def _without(operation: Operation, x: Tensor, gone: Sequence[int], name: str) -> Tensor:
    """The result that holds the axes of x except those reduced, numbered anew."""
    kept = [axis for axis in range(len(x.shape)) if axis not in gone]
    stored = [(axis, size) for axis, size in zip(x.axes, x.sizes, strict=True) if axis not in gone]
    return operation.result(name, [kept.index(axis) for axis, _ in stored], [size for _, size in stored])


def _largest(operation: Operation, x: Tensor, axis: int, k: int, *, largest: bool) -> list[Tensor]:
    add_many = operation.graph.add_many
    attributes = {"axis": x.axes.index(axis), "largest": int(largest), "sorted": 1}
    values, places = add_many("TopK", x.name, operation.graph.integers(k), outputs=2, **attributes)
    sizes = tuple(k if stored == axis else size for stored, size in zip(x.axes, x.sizes, strict=True))
    names = [values]
    if len(operation.shapes) == 2:
        names.append(operation.graph.add("Cast", places, to=onnx_type(operation.dtypes[1])))
    return [
        Tensor(name, dtype, shape, x.axes, sizes)
        for name, dtype, shape in zip(names, operation.dtypes, operation.shapes, strict=True)
    ]
