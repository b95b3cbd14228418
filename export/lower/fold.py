"""What does not depend on the image is computed at export, by JAX itself.

Broadcast constants stay small: they keep size 1 along stretched axes, so that neither a mask repeated for the batch nor
a bias spread over an image grows, and so that a constant may have the symbolic batch in its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from export.lower.layout import Constant
from export.lower.reductions import REDUCTIONS
from export.lower.shapes import Shape, all_static, is_one, is_static, same

_WINDOWS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
_ELEMENTWISE = frozenset(
    (
        *("abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt"),
        *("ceil", "clamp", "convert_element_type", "copy", "cos", "cosh", "div", "eq", "erf"),
        *("erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le"),
        *("log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pow"),
        *("reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic"),
        *("shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan"),
        *("tanh", "xor"),
    )
)


def fold(
    primitive: Any, inputs: Sequence[Constant], params: Mapping[str, Any], shapes: Sequence[Shape]
) -> list[Constant] | None:
    """The results of an operation on constants; None if they are not known before the model runs."""
    name = primitive.name
    if name == "iota":
        return _iota(params)
    if name == "broadcast_in_dim":
        return [_placed(inputs[0], params["broadcast_dimensions"], shapes[0])]
    if name == "transpose":
        return [Constant(inputs[0].array.transpose(params["permutation"]), shapes[0])]
    if name == "squeeze":
        return [Constant(inputs[0].array.squeeze(params["dimensions"]), shapes[0])]
    if name == "reshape" and (renamed := _reshaped_ones(inputs[0], shapes[0])) is not None:
        return [renamed]
    if name in _ELEMENTWISE:
        return [Constant(_computed(primitive, _compact(inputs, len(shapes[0])), params)[0], shapes[0])]
    if inputs and all(all_static(shape) for shape in (*shapes, *(value.shape for value in inputs))):
        results = _computed(primitive, [_full(value) for value in inputs], params)
        return [Constant(result, shape) for result, shape in zip(results, shapes, strict=True)]
    if name in (*REDUCTIONS, *_WINDOWS) and _leaves_symbolic_axes(inputs[0], params):
        sizes = [dim if is_static(dim) else 1 for dim in inputs[0].shape]
        return [Constant(_computed(primitive, [np.broadcast_to(inputs[0].array, sizes)], params)[0], shapes[0])]
    return None


def _computed(primitive: Any, arrays: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("highest"):
        results = primitive.bind(*(jnp.asarray(array) for array in arrays), **params)
    return [_on_host(result) for result in (results if primitive.multiple_results else [results])]


def _on_host(array: Any) -> Any:
    """A NumPy array; a random key, which NumPy can't hold, stays as it is."""
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else np.asarray(array)


def _full(value: Constant) -> Any:
    return value.array if value.array.shape == value.shape else value.full()


def _compact(inputs: Sequence[Constant], rank: int) -> list[np.ndarray]:
    """Operands broadcast against each other, but not along axes that all of them stretch. Scalars stay scalars."""
    sizes = np.broadcast_shapes(*(value.array.shape for value in inputs if value.array.ndim == rank))
    return [np.broadcast_to(v.array, sizes) if v.array.ndim == rank else v.array for v in inputs]


def _iota(params: Mapping[str, Any]) -> list[Constant] | None:
    shape, axis = tuple(params["shape"]), params["dimension"]
    if not is_static(shape[axis]):
        return None
    sizes = [shape[axis] if place == axis else 1 for place in range(len(shape))]
    return [Constant(np.arange(shape[axis]).astype(params["dtype"]).reshape(sizes), shape)]


def _placed(value: Constant, places: Sequence[int], shape: Shape) -> Constant:
    sizes = [1] * len(shape)
    for axis, place in enumerate(places):
        sizes[place] = value.array.shape[axis]
    return Constant(value.array.reshape(sizes), shape)


def _reshaped_ones(value: Constant, shape: Shape) -> Constant | None:
    """A reshape that only adds or drops axes of size 1, on the array as it is kept."""
    before = [(axis, dim) for axis, dim in enumerate(value.shape) if not is_one(dim)]
    after = [(axis, dim) for axis, dim in enumerate(shape) if not is_one(dim)]
    if len(before) != len(after) or not all(same(a, b) for (_, a), (_, b) in zip(before, after, strict=True)):
        return None
    sizes = [1] * len(shape)
    for (old, _), (new, _) in zip(before, after, strict=True):
        sizes[new] = value.array.shape[old]
    return Constant(value.array.reshape(sizes), shape)


def _leaves_symbolic_axes(value: Constant, params: Mapping[str, Any]) -> bool:
    """Whether a reduction works on each image of the batch by itself."""
    symbolic = [axis for axis, dim in enumerate(value.shape) if not is_static(dim)]
    if "axes" in params:
        return not set(symbolic) & set(params["axes"])
    return all(params["window_dimensions"][axis] == 1 and params["window_strides"][axis] == 1 for axis in symbolic)
