"""float16, strongly typed: every tensor's precision stands in the graph, so TensorRT 10.3 to 11 and TensorRT-RTX agree.

The network, from its first layer to its last, is float16. What makes its input of bytes and what makes scores of its
output stay float32, and so do, inside it: sums and means, exp and log, roots, powers and squares, quotients, TopK, what
only feeds these, and constants that float16 can't hold. Graph inputs and outputs keep their types.

onnxruntime.transformers.float16 was tried first. It moves constants that float16 can't hold to the nearest that it can
(an epsilon of 1e-8 becomes 6e-8) without a word, knows operations by their names only, and what it writes is refused by
ONNX's own checker because its Casts come after their readers (docs/export.md).
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision.graph import FloatGraph

LARGEST = float(np.finfo(np.float16).max)
HEADROOM = 4.0  # a value seen in export may be this many times larger on the line
HELD = 1e-3  # relative error, over a constant's values, that float16 may make; its own step is half of that
FLOAT32_OPS = frozenset(
    (
        *("Exp", "Log", "Softmax", "LogSoftmax", "Softplus", "Sqrt", "Reciprocal", "Pow"),
        *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "CumSum"),
        *("ReduceLogSum", "ReduceLogSumExp", "GlobalAveragePool", "AveragePool", "TopK"),
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"),
    )
)
ELEMENTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Sign", "Clip", "Where", "Identity"),
        *("Tanh", "Sigmoid", "Erf", "Relu", "LeakyRelu", "Floor", "Ceil", "Round", "Sin", "Cos"),
    )
)


def to_half(graph: FloatGraph, keep: Set[str] = frozenset()) -> onnx.ModelProto:
    """The graph in float16, checked by ONNX. `keep` names further nodes that stay float32."""
    half = half_nodes(graph, keep)
    types = graph.types
    produced = {
        name: TensorProto.FLOAT16 if node.name in half else TensorProto.FLOAT
        for node in graph.nodes
        for name in node.output
        if types.get(name) == TensorProto.FLOAT
    }
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    casts: set[str] = set()

    def read(name: str, wanted: int) -> str:
        """A float tensor in the type that a node wants."""
        if name in graph.constants:
            if wanted == TensorProto.FLOAT:
                constants[name] = graph.constants[name]
                return name
            converted = f"{name}_float16"
            if converted not in constants:
                constants[converted] = numpy_helper.from_array(graph.array(name).astype(np.float16), converted)
            return converted
        if produced.get(name, TensorProto.FLOAT) == wanted:
            return name
        converted = f"{name}_{'float16' if wanted == TensorProto.FLOAT16 else 'float32'}"
        if converted not in casts:
            casts.add(converted)
            nodes.append(helper.make_node("Cast", [name], [converted], name=f"precision/{converted}", to=wanted))
        return converted

    for original in graph.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        typed = _typed_inputs(original)
        for index, name in enumerate(original.input):
            if types.get(name) == TensorProto.FLOAT:
                is_half = original.name in half and index in typed
                node.input[index] = read(name, TensorProto.FLOAT16 if is_half else TensorProto.FLOAT)
            elif name in graph.constants:
                constants[name] = graph.constants[name]
        if original.op_type == "Cast" and original.name in half:
            node.attribute[0].i = TensorProto.FLOAT16
        nodes.append(node)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants.values())
    onnx.checker.check_model(model, full_check=True)
    return model


def rounded(half: onnx.ModelProto) -> onnx.ModelProto:
    """`to_half`'s graph in float32, with every result of a float16 node rounded to float16.

    What a device gives that stores float16 and sums in float32. Measured in its stead, because ONNX Runtime's CPU
    computes the graph itself in float32 and leaves most of the rounding out.
    """
    inferred = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True).graph
    stored = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    model = onnx.ModelProto()
    model.CopyFrom(half)
    del model.graph.node[:], model.graph.initializer[:]
    for constant in half.graph.initializer:
        array = numpy_helper.to_array(constant)
        wide = array.astype(np.float32) if constant.data_type == TensorProto.FLOAT16 else array
        model.graph.initializer.append(numpy_helper.from_array(wide, constant.name))
    for original in half.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
        casts = []
        for place, name in enumerate(original.output):
            if name in stored:
                exact, short = f"{name}_exact", f"{name}_stored"
                node.output[place] = exact
                casts.append(helper.make_node("Cast", [exact], [short], name=short, to=TensorProto.FLOAT16))
                casts.append(helper.make_node("Cast", [short], [name], name=f"{short}_read", to=TensorProto.FLOAT))
        model.graph.node.extend([node, *casts])
    onnx.checker.check_model(model, full_check=True)
    return model


def half_nodes(graph: FloatGraph, keep: Set[str] = frozenset()) -> frozenset[str]:
    """Names of the nodes that compute in float16."""
    wide = set(keep) | {node.name for node in graph.nodes if _needs_float32(graph, node)}
    for node in reversed(graph.nodes):  # a function of what only float32 reads is float32 too: no rounding on the way
        readers = [reader.name for name in node.output for reader in graph.readers.get(name, [])]
        if node.name in graph.constant_nodes:
            if readers and wide.issuperset(readers):
                wide.add(node.name)
        elif node.op_type in ELEMENTWISE and readers and wide.issuperset(readers):
            wide.add(node.name)
    return frozenset(node.name for node in graph.nodes if node.name not in wide)


def overflowing(graph: FloatGraph, half: Set[str], peaks: dict[str, float]) -> dict[str, float]:
    """Of the nodes in float16, those that read or write a value that it can't hold: node -> that value.

    Args:
        peaks: largest magnitude of each tensor, as `loss.peaks` finds it.
    """
    found = {}
    for node in graph.nodes:
        peak = max((peaks.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if node.name in half and not peak * HEADROOM <= LARGEST:
            found[node.name] = peak
    return found


def _needs_float32(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    if not graph.outputs.isdisjoint(node.output) or node.op_type in FLOAT32_OPS:
        return True
    if node.name in graph.constant_nodes:
        return not all(_holds(graph, name) for name in node.input)
    if node.name in graph.head or node.name in graph.tail:
        return True
    makes_float = any(graph.types.get(name) == TensorProto.FLOAT for name in node.output)
    if node.op_type == "Cast":
        return not makes_float
    if makes_float and not any(
        graph.types.get(node.input[index]) == TensorProto.FLOAT for index in _typed_inputs(node)
    ):
        return True  # its type is in an attribute
    is_square = node.op_type == "Mul" and node.input[0] == node.input[1]
    is_quotient = node.op_type == "Div" and node.input[1] not in graph.constants
    return is_square or is_quotient or not all(_holds(graph, name) for name in node.input)


def _holds(graph: FloatGraph, name: str) -> bool:
    """Whether float16 holds a constant, as a whole: of many weights the least may vanish."""
    if graph.types.get(name) != TensorProto.FLOAT or name not in graph.constants:
        return True
    array = graph.array(name)
    exact = array[np.isfinite(array)].astype(np.float64)  # infinities and NaN are the same in float16
    with np.errstate(over="ignore"):
        error = exact - exact.astype(np.float16)
    return bool(np.isfinite(error).all() and np.linalg.norm(error) <= HELD * np.linalg.norm(exact))


def _typed_inputs(node: onnx.NodeProto) -> set[int]:
    """Places of the inputs that may be float16: Resize, for one, takes its scales in float32 whatever it resizes."""
    schema = onnx.defs.get_schema(node.op_type, 18, node.domain)
    kinds = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    last = len(schema.inputs) - 1  # stands for all that follow where an operation takes any number
    return {
        place
        for place in range(len(node.input))
        if "tensor(float16)" in kinds.get(schema.inputs[min(place, last)].type_str, ())
    }
