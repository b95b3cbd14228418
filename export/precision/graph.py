"""A float32 graph seen by its layers: which nodes carry weights, and what stands before, between and after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

WEIGHTED = frozenset(("Conv", "Gemm", "MatMul"))  # with a constant as their second operand


@dataclass(frozen=True)
class FloatGraph:
    """A model of the lowering, indexed; the model itself is never changed."""

    model: onnx.ModelProto

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """In order of execution."""
        return list(self.model.graph.node)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        return {constant.name: constant for constant in self.model.graph.initializer}

    @cached_property
    def types(self) -> dict[str, int]:
        """Tensor -> its ONNX element type."""
        inferred = onnx.shape_inference.infer_shapes(self.model, check_type=True, strict_mode=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return found | {name: constant.data_type for name, constant in self.constants.items()}

    @cached_property
    def outputs(self) -> frozenset[str]:
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the nodes that carry weights, in order of execution."""
        return tuple(node.name for node in self.nodes if self._is_layer(node))

    @cached_property
    def head(self) -> frozenset[str]:
        """Nodes before the first layer: what makes an image of bytes into the network's input."""
        return frozenset(self._names_without(self.nodes, lambda node: list(node.input), lambda node: list(node.output)))

    @cached_property
    def tail(self) -> frozenset[str]:
        """Nodes after the last layer: what makes scores of the network's output."""
        backwards = self.nodes[::-1]
        return frozenset(self._names_without(backwards, lambda node: list(node.output), lambda node: list(node.input)))

    @cached_property
    def constant_nodes(self) -> frozenset[str]:
        """Nodes that depend on no input: masks that are spread when the model is loaded."""
        fed = {value.name for value in self.model.graph.input}
        constant = set()
        for node in self.nodes:
            if fed.isdisjoint(node.input):
                constant.add(node.name)
            else:
                fed.update(node.output)
        return frozenset(constant)

    @cached_property
    def layer_of(self) -> dict[str, str]:
        """Node -> the layer that it follows, for the nodes between the first layer and the tail."""
        found, layer = {}, ""
        for node in self.nodes:
            layer = node.name if node.name in self._layer_set else layer
            if layer and node.name not in self.head and node.name not in self.tail:
                found[node.name] = layer
        return found

    def of_layers(self, layers: frozenset[str]) -> frozenset[str]:
        """The layers' nodes, each with what follows it."""
        return frozenset(node for node, layer in self.layer_of.items() if layer in layers)

    def floats(self, names: list[str] | tuple[str, ...]) -> Iterator[str]:
        """Those of some tensors that are float32 and computed, not constant."""
        return (name for name in names if self.types.get(name) == TensorProto.FLOAT and name not in self.constants)

    def array(self, name: str) -> np.ndarray:
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    @cached_property
    def _layer_set(self) -> frozenset[str]:
        return frozenset(self.layers)

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in WEIGHTED or node.input[1] not in self.constants:
            return False
        return not _averages(self.array(node.input[1]), node.op_type)

    def _names_without(self, nodes, before, after) -> Iterator[str]:  # type: ignore[no-untyped-def]
        """Names of nodes that no layer comes before, in the direction that they are given in."""
        reached: set[str] = set()
        for node in nodes:
            if node.name in self._layer_set or not reached.isdisjoint(before(node)):
                reached.update(name for name in after(node) if name)
            else:
                yield node.name


def _averages(weights: np.ndarray, op: str) -> bool:
    """Whether every result is a weighted mean: an interpolation or a blur, which is no layer."""
    axes = tuple(range(1, weights.ndim)) if op == "Conv" else (weights.ndim - 2,)
    return bool((weights >= 0).all() and np.allclose(weights.sum(axes), 1, atol=1e-5))
