"""Matrix products, and the linear map of one axis that many of them are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.lower.dtypes import FLOAT32
from export.lower.errors import UnsupportedError
from export.lower.layout import Constant, Tensor, arranged, as_tensor, stretched_to_full
from export.lower.reductions import with_axis
from export.lower.registry import Operation, lowers
from export.lower.resize import linearly_resized

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@lowers("dot_general")
def dot_general(operation: Operation) -> Tensor:
    """A product summed over the contracted axes; the result has shared axes, then the left's, then the right's."""
    operation.require(operation.dtype == FLOAT32, f"a product of {operation.dtype} is not lowered; use float32")
    left, right = operation.inputs
    (left_sum, right_sum), (left_shared, _) = operation.params["dimension_numbers"]
    if len(left_sum) == 1 and not left_shared:
        if isinstance(right, Constant) and right.array.ndim == 2:
            matrix = right.full() if right_sum[0] == 0 else right.full().T
            return _mapped(operation, as_tensor(operation.graph, left), left_sum[0], matrix, new_axis_last=True)
        if isinstance(left, Constant) and left.array.ndim == 2:
            matrix = left.full() if left_sum[0] == 0 else left.full().T
            return _mapped(operation, as_tensor(operation.graph, right), right_sum[0], matrix, new_axis_last=False)
    return _matmul(operation) or _einsum(operation)


def _mapped(operation: Operation, x: Tensor, axis: int, matrix: np.ndarray, *, new_axis_last: bool) -> Tensor:
    """One axis of x goes through a constant matrix [in, out], wherever that axis is stored."""
    x = _mapped_in_place(operation, with_axis(operation, x, axis), axis, matrix)
    kept = [other for other in range(len(x.shape)) if other != axis]
    order = [*kept, axis] if new_axis_last else [axis, *kept]
    return replace(x, shape=operation.shape, axes=tuple(order.index(a) for a in x.axes))


def _mapped_in_place(operation: Operation, x: Tensor, axis: int, matrix: np.ndarray) -> Tensor:
    graph, place, rank = operation.graph, x.axes.index(axis), len(x.axes)
    if (resized := linearly_resized(graph, x, axis, matrix)) is not None:
        return resized
    if place == rank - 1 and rank >= 2:
        name = graph.add("MatMul", x.name, graph.constant(matrix))
    elif place == rank - 2:
        name = graph.add("MatMul", graph.constant(matrix.T), x.name)
    elif place == 1 and rank in (3, 4, 5):
        weights = matrix.T.reshape(*matrix.T.shape, *[1] * (rank - 2))
        name = graph.add("Conv", x.name, graph.constant(weights), kernel_shape=[1] * (rank - 2))
    else:
        names = _LETTERS[: rank + 1]
        after = names[:rank].replace(names[place], names[rank])
        equation = f"{names[:rank]},{names[place]}{names[rank]}->{after}"
        name = graph.add("Einsum", x.name, graph.constant(matrix), equation=equation)
    sizes = tuple(matrix.shape[1] if a == axis else size for a, size in zip(x.axes, x.sizes, strict=True))
    shape = tuple(matrix.shape[1] if a == axis else dim for a, dim in enumerate(x.shape))
    return replace(x, name=name, shape=shape, sizes=sizes)


def _matmul(operation: Operation) -> Tensor | None:
    """One free and one contracted axis on each side: a batched MatMul; None for anything else."""
    graph = operation.graph
    left, right = (as_tensor(graph, value) for value in operation.inputs)
    (left_sum, right_sum), (left_shared, right_shared) = operation.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(x.shape)) if axis not in (*summed, *shared)]
        for x, summed, shared in ((left, left_sum, left_shared), (right, right_sum, right_shared))
    ]
    if len(left_sum) != 1 or len(free[0]) != 1 or len(free[1]) != 1:
        return None
    left = stretched_to_full(graph, arranged(graph, left, (*left_shared, *free[0], *left_sum)))
    right = stretched_to_full(graph, arranged(graph, right, (*right_shared, *right_sum, *free[1])))
    return operation.result(graph.add("MatMul", left.name, right.name), range(len(operation.shape)))


def _einsum(operation: Operation) -> Tensor:
    """Any other product, on the operands as they are stored."""
    graph = operation.graph
    left, right = (stretched_to_full(graph, as_tensor(graph, value)) for value in operation.inputs)
    (left_sum, right_sum), (left_shared, right_shared) = operation.params["dimension_numbers"]
    if len(left.shape) + len(right.shape) > len(_LETTERS):
        raise UnsupportedError("a product of arrays with so many axes is not lowered")
    left_letters = list(_LETTERS[: len(left.shape)])
    right_letters = list(_LETTERS[len(left.shape) :][: len(right.shape)])
    for i, j in zip((*left_shared, *left_sum), (*right_shared, *right_sum), strict=True):
        right_letters[j] = left_letters[i]
    summed = {left_letters[axis] for axis in left_sum}
    shared = [left_letters[axis] for axis in left_shared]
    result = shared + [c for c in (*left_letters, *right_letters) if c not in summed and c not in shared]
    terms = ("".join(c[a] for a in x.axes) for c, x in ((left_letters, left), (right_letters, right)))
    name = graph.add("Einsum", left.name, right.name, equation=f"{','.join(terms)}->{''.join(result)}")
    return operation.result(name, range(len(operation.shape)))
