"""Folds batch normalisation, biases and factors into the convolution before them.

A factor and a shift per channel also pass through DepthToSpace, where each channel fills block * block channels before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.lower.graph import Graph, Node
from export.lower.rewrites.index import Index, replace_reads

_AFFINE = ("Add", "Div", "Mul", "Sub")


@dataclass
class _Affine:
    """y = scale * x + shift, each of shape [1] or [channels], float64."""

    scale: np.ndarray
    shift: np.ndarray

    def then(self, scale: np.ndarray, shift: np.ndarray) -> _Affine:
        return _Affine(self.scale * scale, self.shift * scale + shift)


def fold_affine_into_convolutions(graph: Graph) -> None:
    for convolution in [node for node in graph.nodes if node.op in ("Conv", "ConvTranspose")]:
        kernel = graph.constants.get(convolution.inputs[1])
        has_known_bias = len(convolution.inputs) < 3 or convolution.inputs[2] in graph.constants
        if kernel is None or not has_known_bias or (convolution.op == "ConvTranspose" and _groups(convolution) != 1):
            continue
        _fold(graph, convolution, kernel)


def _fold(graph: Graph, convolution: Node, kernel: np.ndarray) -> None:
    index = Index(graph)
    place = 0 if convolution.op == "Conv" else 1
    channels = kernel.shape[place]
    affine = _Affine(np.ones(1), np.zeros(1))
    tensor, folded = convolution.outputs[0], []
    spread = None  # how a value per channel after DepthToSpace reaches the channels before it
    while (reader := index.only_reader(tensor, *_AFFINE, "DepthToSpace")) is not None:
        if reader.op == "DepthToSpace":
            if spread is not None:
                break
            block, spread = reader.attributes["blocksize"] ** 2, reader.attributes["mode"]
            channels //= block
        else:
            step = _affine(index, reader, tensor, channels, kernel.ndim)
            if step is None:
                break
            affine = affine.then(*(_spread(value, block, spread) if spread else value for value in step))
            folded.append(reader)
        tensor = reader.outputs[0]
    if not folded:
        return
    for node in folded:
        data = next(name for name in node.inputs if index.constant(name) is None)
        replace_reads(graph, node.outputs[0], data)
        index = Index(graph)
    graph.nodes = [node for node in graph.nodes if not any(node is other for other in folded)]
    _write(graph, convolution, kernel, place, affine)


def _write(graph: Graph, convolution: Node, kernel: np.ndarray, place: int, affine: _Affine) -> None:
    channels = kernel.shape[place]
    scale = np.broadcast_to(affine.scale, channels)
    shape = [channels if axis == place else 1 for axis in range(kernel.ndim)]
    weights = (kernel.astype(np.float64) * scale.reshape(shape)).astype(np.float32)
    bias = np.zeros(channels) if len(convolution.inputs) < 3 else graph.constants[convolution.inputs[2]]
    shifted = (bias * scale + np.broadcast_to(affine.shift, channels)).astype(np.float32)
    convolution.inputs = [convolution.inputs[0], graph.constant(weights), graph.constant(shifted)]


def _affine(index: Index, node: Node, tensor: str, channels: int, rank: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) of one operation with a constant per channel; None if it is something else."""
    first, second = node.inputs
    is_first = first == tensor
    constant = index.constant(second if is_first else first)
    if constant is None or constant.dtype != np.float32:
        return None
    shape = (*[1] * (rank - constant.ndim), *constant.shape)
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] > channels:
        return None
    value, one, zero = constant.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    if node.op == "Add":
        return one, value
    if node.op == "Mul":
        return value, zero
    if node.op == "Sub":
        return (one, -value) if is_first else (-one, value)
    return (1.0 / value, zero) if is_first and np.all(value != 0) else None


def _spread(value: np.ndarray, block: int, mode: str) -> np.ndarray:
    if value.size == 1:
        return value
    return np.tile(value, block) if mode == "DCR" else np.repeat(value, block)


def _groups(convolution: Node) -> int:
    return int(convolution.attributes.get("group", 1))
