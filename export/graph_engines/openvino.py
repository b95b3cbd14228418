"""A graph in OpenVINO, on the CPU, in float32 as the graph says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edge_agent.engines import EngineError
from edge_agent.engines.openvino import the_core, the_module
from export.graph_engines.shapes import inputs_of, outputs_of


class OpenVinoGraph:
    def __init__(self, model: onnx.ModelProto, batch: int):
        openvino = the_module()
        self.name = f"openvino {openvino.__version__} on the CPU"
        self._outputs = [output.name for output in outputs_of(model, batch)]
        try:
            graph = the_core().read_model(model=model.SerializeToString(), weights=b"")
            graph.reshape({tensor.name: list(tensor.shape) for tensor in inputs_of(model, batch)})
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self._request: Any = the_core().compile_model(graph, "CPU", options).create_infer_request()
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise EngineError(
                f"OpenVINO {openvino.__version__} can't compile {model.graph.name}: {error}. Take --engine onnxruntime."
            ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        try:
            self._request.infer(dict(inputs))
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        return [np.array(self._request.get_tensor(name).data) for name in self._outputs]

    def close(self) -> None:
        self._request = None
