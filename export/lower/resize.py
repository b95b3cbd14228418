"""Resizing, recognised by what it does and not by what it is called.

`jax.image.resize` is written by JAX as a gather (nearest) or as a product with a matrix of weights (the others). Both
are lowered as they stand, which is exact for every method. Where the indices repeat each pixel a whole number of times,
or the weights are those of linear upsampling, ONNX's Resize does the same and is faster.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.lower.dtypes import FLOAT32
from export.lower.graph import Graph
from export.lower.layout import Tensor
from export.lower.shapes import is_static

_SPATIAL = (2, 3)  # stored places that engines resize: n, c, then h, w


def can_repeat(x: Tensor, axis: int) -> bool:
    """Whether the axis is stored as height or width of a float image of known size."""
    return _is_image_axis(x, axis)


def repeated(graph: Graph, x: Tensor, axis: int, times: int) -> Tensor:
    """Each element `times` times in a row along an axis, as [a, a, b, b]."""
    name = _resize(graph, x, axis, times, mode="nearest", coordinates="asymmetric", nearest_mode="floor")
    return _with_size(x, axis, name, int(x.shape[axis]) * times)


def repeats(indices: np.ndarray, size: int) -> int | None:
    """How often indices take each of `size` elements in turn, 0 0 1 1 ...; None if they do something else."""
    times, rest = divmod(indices.size, size)
    is_repeat = rest == 0 and times > 1 and bool(np.array_equal(indices, np.arange(indices.size) // times))
    return times if is_repeat else None


def linearly_resized(graph: Graph, x: Tensor, axis: int, weights: np.ndarray) -> Tensor | None:
    """The axis mapped by a matrix of weights [size, new size], if that is linear upsampling; None if it isn't."""
    size, new_size = weights.shape
    if new_size <= size or not _is_image_axis(x, axis) or not np.allclose(weights, _linear(size, new_size), atol=1e-6):
        return None
    name = _resize(graph, x, axis, new_size / size, mode="linear", coordinates="half_pixel")
    return _with_size(x, axis, name, new_size)


def _linear(size: int, new_size: int) -> np.ndarray:
    """Weights of linear interpolation between pixel centres, the border pixels held outside."""
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    return np.maximum(0.0, 1.0 - np.abs(np.arange(size)[:, None] - place[None]))


def _resize(graph: Graph, x: Tensor, axis: int, scale: float, *, mode: str, coordinates: str, **more: str) -> str:
    place = x.axes.index(axis)
    scales = np.ones(len(x.axes), np.float32)
    scales[place] = _exact_scale(int(x.shape[axis]), scale)
    inputs = (x.name, "", graph.constant(scales))
    return graph.add("Resize", *inputs, mode=mode, coordinate_transformation_mode=coordinates, **more)


def _exact_scale(size: int, scale: float) -> np.float32:
    """The scale as float32, such that engines that compute floor(size * scale) arrive at the size that is meant."""
    wanted, result = round(size * scale), np.float32(scale)
    while int(np.floor(np.float32(size) * result)) < wanted:
        result = np.nextafter(result, np.float32(np.inf))
    return result


def _is_image_axis(x: Tensor, axis: int) -> bool:
    is_image = len(x.axes) == 4 and x.dtype == FLOAT32 and axis in x.order and x.axes.index(axis) in _SPATIAL
    return is_image and is_static(x.shape[axis])


def _with_size(x: Tensor, axis: int, name: str, size: int) -> Tensor:
    shape = tuple(size if place == axis else dim for place, dim in enumerate(x.shape))
    sizes = tuple(size if place == axis else dim for place, dim in zip(x.axes, x.sizes, strict=True))
    return replace(x, name=name, shape=shape, sizes=sizes)
