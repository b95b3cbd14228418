"""Rows of a table, chosen by numbers that are known only when the model runs: the embeddings of tokens."""

from __future__ import annotations

from dataclasses import replace

from jax.lax import GatherScatterMode

from export.lower.dtypes import INT32, onnx_type
from export.lower.layout import Tensor, arranged, in_full
from export.lower.registry import Operation
from export.lower.shapes import is_static, same


def looked_up(operation: Operation, places: Tensor) -> Tensor:
    """Whole rows along one axis, as jnp.take(table, places, axis, mode="clip") writes it; places outside are moved in.

    `places` has a last axis of size 1, as JAX's gather wants it.
    """
    table, numbers, graph = operation.inputs[0], operation.params["dimension_numbers"], operation.graph
    axis = numbers.start_index_map[0]
    kept = [other for other in range(len(table.shape)) if other != axis]
    sizes = operation.params["slice_sizes"]
    operation.require(
        len(numbers.start_index_map) == 1
        and numbers.collapsed_slice_dims == (axis,)
        and not numbers.operand_batching_dims
        and is_static(table.shape[axis])
        and all(same(sizes[other], table.shape[other]) for other in kept),
        "its indices depend on the input; such indices are lowered for whole rows of one axis, as "
        'jnp.take(table, indices, axis, mode="clip") writes it',
    )
    operation.require(
        operation.params["mode"] != GatherScatterMode.FILL_OR_DROP,
        'outside of the table it gives NaN; write jnp.take(table, indices, axis, mode="clip")',
    )
    name = _inside(operation, places, int(table.shape[axis]))
    name = graph.add("Gather", in_full(graph, table, range(len(table.shape))), name, axis=axis)
    grid = [place for place in range(len(operation.shape)) if place not in numbers.offset_dims]
    becomes = dict(zip(kept, numbers.offset_dims, strict=True))
    order = [place for other in range(len(table.shape)) for place in (grid if other == axis else [becomes[other]])]
    return operation.result(name, order)


def _inside(operation: Operation, places: Tensor, size: int) -> str:
    """The places without their last axis, as int32 in 0 .. size - 1."""
    graph, last = operation.graph, len(places.shape) - 1
    places = arranged(graph, places, [axis for axis in places.axes if axis != last])
    name = in_full(graph, replace(places, shape=places.shape[:-1]), range(last))
    if places.dtype != INT32:
        name = graph.add("Cast", name, to=onnx_type(INT32))
    name = graph.add("Max", name, graph.constant(0, INT32))
    return graph.add("Min", name, graph.constant(size - 1, INT32))
