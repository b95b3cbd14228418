"""ONNX Runtime on the CPU: the engine that every device has."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_agent.engines import EngineError, Scores, check_images

OUTPUTS = {"image_score": 1, "anomaly_map": 3, "raw_score": 1}  # name -> rank; all float32, batch first


class OnnxRuntimeEngine:
    """A session on the CPU, checked against the bundle's contract when it is opened.

    model: a file, or its bytes. threads: of one inference; None is ONNX Runtime's choice (one per core).
    """

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, *, threads: int | None = None):
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}; an engine needs at least 1. Leave it out for one per core.")
        where = "The model" if isinstance(model, bytes) else str(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes as an exception, which says the same
        options.inter_op_num_threads = 1  # our graphs are chains: nodes run one after the other
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise EngineError(
                f"{where} can't be loaded by ONNX Runtime {onnxruntime.__version__}: {_first_line(error)}. "
                "Export the bundle again, or update onnxruntime where it is too old for the opset."
            ) from error
        self.size = _size(self._session, where)  # (height, width), pixels

    def run(self, images: np.ndarray) -> Scores:
        """uint8 [n, height, width, 3] RGB to Scores; the arrays are the caller's to keep."""
        if self._session is None:
            raise EngineError("The engine was closed. Open it again with open_engine.")
        check_images(images, self.size)
        try:
            found = self._session.run(list(Scores._fields), {"image": images})
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on {len(images)} images: {_first_line(error)}.") from error
        scores = Scores(*found)
        n = len(images)
        if (scores.image_score.shape, scores.anomaly_map.shape, scores.raw_score.shape) != (
            (n,),
            (n, *self.size),
            (n,),
        ):
            raise EngineError(
                f"The model answers {n} images with {[list(value.shape) for value in scores]}; image_score, "
                f"anomaly_map and raw_score should be {[[n], [n, *self.size], [n]]}. Export the bundle again."
            )
        return scores

    def close(self) -> None:
        self._session = None


def _size(session: Any, where: str) -> tuple[int, int]:
    """(height, width) of the model's input; EngineError where inputs or outputs are not the contract's."""
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    outputs = {value.name: (value.type, len(value.shape)) for value in session.get_outputs()}
    kind, shape = inputs.get("image", ("nothing", []))
    batch, *size = shape or [1]
    fixed = len(size) == 3 and all(isinstance(n, int) for n in size) and size[2] == 3
    if len(inputs) != 1 or kind != "tensor(uint8)" or isinstance(batch, int) or not fixed:
        raise EngineError(
            f"{where} takes {inputs}; the one input should be image, uint8 [batch, height, width, 3] with a batch that "
            "may vary. Export the bundle again."
        )
    right = {name: ("tensor(float)", rank) for name, rank in OUTPUTS.items()}
    if outputs != right:
        raise EngineError(f"{where} gives {outputs} (type, rank); it should give {right}. Export the bundle again.")
    return size[0], size[1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
