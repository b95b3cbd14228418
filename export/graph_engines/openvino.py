"""A graph in OpenVINO, on the CPU, in float32 as the graph says."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from edge_agent.engines import EngineError
from export.graph_engines.shapes import inputs_of, outputs_of


class OpenVinoGraph:
    def __init__(self, model: onnx.ModelProto, batch: int):
        openvino = _import()
        self.name = f"openvino {openvino.__version__} on the CPU"
        self._outputs = [output.name for output in outputs_of(model, batch)]
        try:
            graph = _core().read_model(model=model.SerializeToString(), weights=b"")
            graph.reshape({tensor.name: list(tensor.shape) for tensor in inputs_of(model, batch)})
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self._request: Any = _core().compile_model(graph, "CPU", options).create_infer_request()
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


@lru_cache(maxsize=1)
def _core() -> Any:
    """One for the whole process, never given back (edge_agent/engines/openvino.py says why)."""
    return _import().Core()


def _import() -> Any:
    # Its telemetry would fork this process, in which JAX has threads, to report the import; without it OpenVINO goes on
    # with a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(f"OpenVINO can't be loaded ({error}). Install it: pip install faultline[openvino]") from error
