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
from export.lower.layout import Tensor, arranged, channels_first
from export.lower.shapes import is_static


def _as_image(graph: Graph, x: Tensor, axis: int) -> Tensor | None:
    """The tensor stored as [n, c, h, w], axes of size 1 put in, with the axis as height or width; else None."""
    if x.dtype != FLOAT32 or axis not in x.order or not is_static(x.shape[axis]):
        return None
    if len(x.axes) == 4 and axis in x.axes[2:]:
        return x
    order = channels_first(4)
    if len(x.shape) != 4 or axis not in order[2:] or tuple(a for a in order if a in x.order) != x.order:
        return None
    return arranged(graph, x, order)


def repeated(graph: Graph, x: Tensor, axis: int, times: int) -> Tensor | None:
    """Each element `times` times in a row along an axis, as [a, a, b, b]; None if x is no image."""
    if (image := _as_image(graph, x, axis)) is None:
        return None
    name = _resize(graph, image, axis, times, mode="nearest", coordinates="asymmetric", nearest_mode="floor")
    return _with_size(image, axis, name, int(x.shape[axis]) * times)


def repeats(indices: np.ndarray, size: int) -> int | None:
    """How often indices take each of `size` elements in turn, 0 0 1 1 ...; None if they do something else."""
    times, rest = divmod(indices.size, size)
    is_repeat = rest == 0 and times > 1 and bool(np.array_equal(indices, np.arange(indices.size) // times))
    return times if is_repeat else None


def linearly_resized(graph: Graph, x: Tensor, axis: int, weights: np.ndarray) -> Tensor | None:
    """The axis mapped by a matrix of weights [size, new size], if that is linear upsampling; None if it isn't."""
    size, new_size = weights.shape
    if new_size <= size or not np.allclose(weights, _linear(size, new_size), atol=1e-6):
        return None
    if (image := _as_image(graph, x, axis)) is None:
        return None
    name = _resize(graph, image, axis, new_size / size, mode="linear", coordinates="half_pixel")
    return _with_size(image, axis, name, new_size)


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
    while size * float(result) < wanted:
        result = np.nextafter(result, np.float32(np.inf))
    return result


def _with_size(x: Tensor, axis: int, name: str, size: int) -> Tensor:
    shape = tuple(size if place == axis else dim for place, dim in enumerate(x.shape))
    sizes = tuple(size if place == axis else dim for place, dim in zip(x.axes, x.sizes, strict=True))
    return replace(x, name=name, shape=shape, sizes=sizes)
