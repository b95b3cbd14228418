"""OpenVINO on the CPU, for line PCs without an NVIDIA GPU: often faster than ONNX Runtime, in bfloat16 by far."""

import importlib
import sys
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from edge_agent.engines import EngineError, Scores, check_images

OUTPUTS = {"image_score": 1, "anomaly_map": 3, "raw_score": 1}  # name -> rank; all float32, batch first

Precision = Literal["float32", "bfloat16"]
HINTS = {"float32": "f32", "bfloat16": "bf16"}
FEW_CHANNELS = 64  # more cost a convolution more than the change of layout does (measured on an EPYC with AVX-512)


class OpenVinoEngine:
    """A model compiled for this CPU, image by image, hint: latency.

    precision: what it computes in, whatever the graph stores; "auto" is bfloat16 where the CPU has instructions for it.
    Images of a larger batch are scored one after the other: shapes are fixed, which makes the line's batch of 1 fast.
    """

    name = "openvino"

    def __init__(self, model: bytes, *, threads: int | None = None, precision: str = "auto"):
        if precision not in (*get_args(Precision), "auto"):
            raise EngineError(f"precision is {precision!r}. OpenVINO takes float32, bfloat16 or auto.")
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}; an engine needs at least 1. Leave it out for one per core.")
        openvino, core = the_module(), the_core()
        has_bfloat16 = supports_bfloat16()
        if precision == "bfloat16" and not has_bfloat16:
            raise EngineError("This CPU computes no bfloat16 (no AVX-512 BF16 or AMX). Set precision to float32.")
        if precision == "auto":
            precision = "bfloat16" if has_bfloat16 else "float32"
        self.precision = precision
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            graph = core.read_model(model=model, weights=b"")
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise EngineError(
                f"The model can't be loaded by OpenVINO {openvino.__version__}: {_first_line(error)}. "
                "Export the bundle again, or update openvino where it is too old for the opset."
            ) from error
        self.size = _size(graph)  # (height, width), pixels
        try:
            graph.reshape({"image": [1, *self.size, 3]})
            if precision == "float32":
                permute_by_convolution(graph)
            request = core.compile_model(graph, "CPU", options).create_infer_request()
        except Exception as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} can't compile the model for this CPU: {_first_line(error)}. "
                "Use the engine onnxruntime on this device."
            ) from error
        self._request: Any = request
        self._image = np.zeros((1, *self.size, 3), np.uint8)
        request.set_tensor("image", openvino.Tensor(self._image, shared_memory=True))
        self._outputs = Scores(*(request.get_tensor(name).data for name in Scores._fields))

    def run(self, images: np.ndarray) -> Scores:
        """uint8 [n, height, width, 3] RGB to Scores; the arrays are the caller's to keep."""
        if self._request is None:
            raise EngineError("The engine was closed. Open it again with open_engine.")
        check_images(images, self.size)
        n = len(images)
        found = Scores(np.empty(n, np.float32), np.empty((n, *self.size), np.float32), np.empty(n, np.float32))
        for at, image in enumerate(images):
            self._image[0] = image
            try:
                self._request.infer()
            except Exception as error:
                raise EngineError(f"OpenVINO failed on image {at + 1} of {n}: {_first_line(error)}.") from error
            for values, answer in zip(found, self._outputs, strict=True):
                values[at] = answer[0]
        return found

    def close(self) -> None:
        self._request = None


def permute_by_convolution(graph: Any) -> int:
    """Turn permutations of few channels into 1x1 convolutions, which is exact; how many there were.

    OpenVINO's Gather leaves the layout that its convolutions like, and the way back is slow in float32 for large maps.
    """
    ops, count = importlib.import_module("openvino.opset13"), 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Gather":
            continue
        data, indices, axis = (node.input_value(at) for at in range(3))
        shape, constants = data.get_partial_shape(), (indices.get_node(), axis.get_node())
        if len(shape) != 4 or any(each.get_type_name() != "Constant" for each in constants) or shape[1].is_dynamic:
            continue
        order, channels = np.asarray(constants[0].data).ravel(), shape[1].get_length()
        along_channels = int(np.asarray(constants[1].data).ravel()[0]) == 1
        if not along_channels or channels > FEW_CHANNELS or sorted(order) != list(range(channels)):
            continue
        weights = np.zeros((channels, channels, 1, 1), np.float32)
        weights[np.arange(channels), order] = 1.0
        permuted = ops.convolution(data, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
        node.output(0).replace(permuted.output(0))
        count += 1
    return count


def supports_bfloat16() -> bool:
    """Has this CPU instructions for it? Emulation would only be slow."""
    return "BF16" in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@lru_cache(maxsize=1)
def the_core() -> Any:
    """One for the whole process, never given back.

    The CPU plugin moves its thread's signal stack (sigaltstack) into memory of its own and frees that with the core;
    where two cores overlapped, the stack stays there, and the next signal is a segmentation fault.
    """
    return the_module().Core()


def the_module() -> Any:
    """OpenVINO, where it is installed; without its telemetry, which forks this process to report that it was imported.

    A line's agent tells nobody anything, and a process with threads must not be forked.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(f"OpenVINO can't be loaded ({error}). Install it: pip install faultline[openvino]") from error


def _size(graph: Any) -> tuple[int, int]:
    """(height, width) of the model's input; EngineError where inputs or outputs are not the contract's."""
    inputs = {_name(port): (port.element_type.to_string(), str(port.partial_shape)) for port in graph.inputs}
    outputs = {_name(port): (port.element_type.to_string(), len(port.partial_shape)) for port in graph.outputs}
    shape: Any = graph.inputs[0].partial_shape if len(inputs) == 1 else None
    kind = inputs.get("image", ("nothing", ""))[0]
    fixed = shape is not None and shape.rank.is_static and len(shape) == 4 and all(n.is_static for n in list(shape)[1:])
    if not fixed or kind not in ("u8", "uint8_t") or shape[0].is_static or shape[3].get_length() != 3:
        raise EngineError(
            f"The model takes {inputs}; the one input should be image, uint8 [batch, height, width, 3] with a batch "
            "that may vary. Export the bundle again."
        )
    right = {name: ("f32", rank) for name, rank in OUTPUTS.items()}
    if {name: ("f32" if kind == "float" else kind, rank) for name, (kind, rank) in outputs.items()} != right:
        raise EngineError(f"The model gives {outputs} (type, rank); it should give {right}. Export the bundle again.")
    return shape[1].get_length(), shape[2].get_length()


def _name(port: Any) -> str:
    return port.any_name if port.names else "an output without a name"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if not line.startswith(("Exception from", "Check "))), "")
    return (said or type(error).__name__)[:300].rstrip(".")
