"""What the tests of precision read off a graph."""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

SCORES = ("image_score", "anomaly_map", "raw_score")


def float_types(model: onnx.ModelProto) -> dict[str, int]:
    """Float tensor -> FLOAT or FLOAT16, as ONNX infers it."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    found |= {constant.name: constant.data_type for constant in graph.initializer}
    return {name: kind for name, kind in found.items() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)}


def reading(model: onnx.ModelProto, *operations: str) -> Iterator[tuple[onnx.NodeProto, set[int]]]:
    """Nodes of these operations, each with the types of the floats that it reads and writes."""
    types = float_types(model)
    for node in model.graph.node:
        if node.op_type in operations:
            yield node, {types[name] for name in (*node.input, *node.output) if name in types}


def named(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {constant.name: constant for constant in model.graph.initializer}
