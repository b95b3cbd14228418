"""A graph in ONNX Runtime, on the CPU."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from edge_agent.engines import EngineError
from export.graph_engines.shapes import outputs_of


class OnnxRuntimeGraph:
    def __init__(self, model: onnx.ModelProto, batch: int):
        self.name = f"onnxruntime {onnxruntime.__version__} on the CPU"
        self._outputs = [output.name for output in outputs_of(model, batch)]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes as an exception, which says the same
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} can't load {model.graph.name}: {error}"
            ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        try:
            found: Sequence[np.ndarray] = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return found

    def close(self) -> None:
        del self._session
