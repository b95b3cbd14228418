"""The largest magnitude of every tensor over some images, in float32: what float16 must be able to hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.precision.graph import FloatGraph


def peaks(
    graph: FloatGraph, images: np.ndarray, on_progress: Callable[[int], None] = lambda done: None
) -> dict[str, float]:
    """Tensor -> max |value|, of every float32 tensor that is computed; infinity where one is not finite."""
    import onnxruntime

    names = [name for node in graph.nodes for name in graph.floats(list(node.output))]
    measured = onnx.ModelProto()
    measured.CopyFrom(graph.model)
    del measured.graph.output[:]
    for name in names:
        size, peak = f"{name}_magnitude", f"{name}_peak"
        measured.graph.node.append(helper.make_node("Abs", [name], [size]))
        measured.graph.node.append(helper.make_node("ReduceMax", [size], [peak], keepdims=0))
        measured.graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = np.zeros(len(names))
    for index in range(len(images)):
        values = np.array(session.run(None, {"image": images[index : index + 1]}), np.float64)
        found = np.maximum(found, np.where(np.isfinite(values), values, np.inf))
        on_progress(1)
    return dict(zip(names, found.tolist(), strict=True))
