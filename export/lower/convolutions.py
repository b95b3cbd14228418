"""Convolutions and pooling windows, plain and transposed."""

from __future__ import annotations

import numpy as np

from export.lower.dtypes import FLOAT32
from export.lower.errors import UnsupportedError
from export.lower.layout import Constant, Tensor, arranged, channels_first, in_full, stretched_to_full
from export.lower.registry import Operation, lowers


@lowers("conv_general_dilated")
def convolution(operation: Operation) -> Tensor:
    """Conv, or ConvTranspose where the input is dilated. JAX's padding is explicit by now, also that of 'SAME'."""
    params, (x, kernel) = operation.params, operation.inputs
    operation.require(operation.dtype == FLOAT32, f"a convolution of {operation.dtype} is not lowered; use float32")
    operation.require(params["batch_group_count"] == 1, "batch_group_count is not lowered; use feature_group_count")
    numbers = params["dimension_numbers"]
    is_transposed = any(dilation != 1 for dilation in params["lhs_dilation"])
    image = in_full(operation.graph, x, numbers.lhs_spec)
    lower = _transposed if is_transposed else _plain
    return operation.result(lower(operation, image, kernel), numbers.out_spec)


def _plain(operation: Operation, image: str, kernel: Constant | Tensor) -> str:
    params = operation.params
    begins, ends = zip(*params["padding"], strict=True)
    if min(*begins, *ends) < 0:
        image = _cropped(operation, image, begins, ends)
        begins, ends = (tuple(max(0, pad) for pad in pads) for pads in (begins, ends))
    spec = params["dimension_numbers"].rhs_spec
    return operation.graph.add(
        "Conv",
        image,
        in_full(operation.graph, kernel, spec),
        kernel_shape=[int(kernel.shape[axis]) for axis in spec[2:]],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=[*begins, *ends],
        group=params["feature_group_count"],
    )


def _transposed(operation: Operation, image: str, kernel: Constant | Tensor) -> str:
    """ONNX states the kernel as [in, out / groups, ...], flipped, and what to cut off instead of what to pad."""
    params = operation.params
    operation.require(set(params["window_strides"]) == {1}, "a convolution both strided and transposed is not lowered")
    if not isinstance(kernel, Constant):
        raise UnsupportedError("the kernel of a transposed convolution must not depend on the image")
    weights = kernel.full().transpose(params["dimension_numbers"].rhs_spec)  # out, in / groups, ...
    weights = np.flip(weights, tuple(range(2, weights.ndim)))
    groups = params["feature_group_count"]
    out, per_group, *window = weights.shape
    weights = weights.reshape(groups, out // groups, per_group, *window).swapaxes(1, 2)
    weights = weights.reshape(groups * per_group, out // groups, *window)
    reach = [(size - 1) * dilation for size, dilation in zip(window, params["rhs_dilation"], strict=True)]
    begins = [most - low for most, (low, _) in zip(reach, params["padding"], strict=True)]
    ends = [most - high for most, (_, high) in zip(reach, params["padding"], strict=True)]
    extra = [max(0, -end) for end in ends]
    operation.require(
        min(begins) >= 0 and all(e < s for e, s in zip(extra, params["lhs_dilation"], strict=True)),
        f"padding {params['padding']} of a transposed convolution reaches beyond its kernel; pad the input instead",
    )
    return operation.graph.add(
        "ConvTranspose",
        image,
        operation.graph.constant(weights),
        kernel_shape=window,
        strides=list(params["lhs_dilation"]),
        dilations=list(params["rhs_dilation"]),
        pads=[*begins, *(max(0, end) for end in ends)],
        output_padding=extra,
        group=groups,
    )


def _cropped(operation: Operation, image: str, begins: tuple[int, ...], ends: tuple[int, ...]) -> str:
    """Negative padding cuts rows and columns off."""
    integers = operation.graph.integers
    starts = integers(*(max(0, -begin) for begin in begins))
    stops = integers(*(end if end < 0 else np.iinfo(np.int64).max for end in ends))
    return operation.graph.add("Slice", image, starts, stops, integers(*range(2, 2 + len(begins))))


@lowers("reduce_window_max", "reduce_window_min", "reduce_window_sum")
def window(operation: Operation) -> Tensor:
    """MaxPool, or AveragePool times the window's size. Max pads with the smallest number, sum with zeros, as JAX."""
    params, graph = operation.params, operation.graph
    x = operation.tensor()
    operation.require(x.dtype == FLOAT32, f"a pooling window over {x.dtype} is not lowered; convert to float32 first")
    rank = len(x.shape)
    operation.require(rank >= 3, f"a pooling window over {rank} axes is not lowered; it needs at least 3")
    operation.require(
        all(d == 1 for d in params["base_dilation"]), "a pooling window over a dilated input is not lowered"
    )
    spatial = _window_axes(operation, rank)
    rest = [axis for axis in range(rank) if axis not in spatial]
    order = (*[axis for axis in channels_first(rank) if axis in rest], *spatial)
    x = stretched_to_full(graph, arranged(graph, x, order))
    size = [params["window_dimensions"][axis] for axis in spatial]
    padding = [params["padding"][axis] for axis in spatial]
    dilations = [params["window_dilation"][axis] for axis in spatial]
    operation.require(
        all(0 <= pad < n for pads, n in zip(padding, size, strict=True) for pad in pads),
        f"padding {padding} of a pooling window of {size} is not lowered; it must be smaller than the window",
    )
    attributes = {
        "kernel_shape": size,
        "strides": [params["window_strides"][axis] for axis in spatial],
        "pads": [low for low, _ in padding] + [high for _, high in padding],
    }
    if operation.primitive == "reduce_window_sum":
        operation.require(set(dilations) == {1}, "a sum over a dilated window is not lowered in opset 18")
        mean = graph.add("AveragePool", x.name, count_include_pad=1, **attributes)
        return operation.result(graph.add("Mul", mean, graph.constant(np.prod(size), np.float32)), order)
    attributes["dilations"] = dilations
    if operation.primitive == "reduce_window_max":
        return operation.result(graph.add("MaxPool", x.name, **attributes), order)
    lowest = graph.add("MaxPool", graph.add("Neg", x.name), **attributes)
    return operation.result(graph.add("Neg", lowest), order)


def _window_axes(operation: Operation, rank: int) -> list[int]:
    """The rank - 2 axes that ONNX pools; the two others must be left alone by the window."""
    params = operation.params
    moved = [
        axis
        for axis in range(rank)
        if params["window_dimensions"][axis] != 1
        or params["window_strides"][axis] != 1
        or tuple(params["padding"][axis]) != (0, 0)
    ]
    operation.require(len(moved) <= rank - 2, "a pooling window over the batch or the channels is not lowered")
    idle = [axis for axis in range(1, rank) if axis not in moved]
    return sorted([*moved, *idle[: rank - 2 - len(moved)]])
