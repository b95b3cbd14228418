"""The finished graph as an ONNX model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from export.lower.dtypes import onnx_type
from export.lower.graph import Graph
from export.lower.layout import Tensor
from export.lower.shapes import is_static

OPSET = 18
IR_VERSION = 8  # the first that knows opset 18; ONNX Runtime on Python 3.10 and TensorRT 10.3 read up to 10


def as_model(graph: Graph, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], name: str) -> onnx.ModelProto:
    """The model, checked by ONNX's own full check.

    Raises:
        onnx.checker.ValidationError: the graph is wrong, which is a fault of the lowering and not of the model.
    """
    counts: Counter[str] = Counter()
    nodes = []
    for node in graph.nodes:
        prefix = f"{node.scope}/{node.op}" if node.scope else node.op
        label = f"{prefix}_{counts[prefix]}"
        counts[prefix] += 1
        nodes.append(helper.make_node(node.op, node.inputs, node.outputs, name=label, **node.attributes))
    initializers = [numpy_helper.from_array(array, constant) for constant, array in graph.constants.items()]
    proto = helper.make_graph(
        nodes,
        name,
        [_described(x, x_name) for x_name, x in inputs.items()],
        [_described(y, y_name) for y_name, y in outputs.items()],
        initializers,
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="faultline"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _described(tensor: Tensor, name: str) -> onnx.ValueInfoProto:
    sizes = [int(dim) if is_static(dim) else str(dim) for dim in tensor.shape]
    return helper.make_tensor_value_info(name, onnx_type(tensor.dtype), sizes)
