"""What runs a graph of `export graphs` on a server: any inputs, any outputs, batches of one size.

The agent's engines run bundles and know nothing else; these share TensorRT's loading, CUDA's contexts and errors with
them (edge_agent/engines/tensorrt).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import onnx

from edge_agent.engines import EngineError
from edge_agent.engines.tensorrt.api import NAMES
from export.graph_engines.onnxruntime import OnnxRuntimeGraph
from export.graph_engines.openvino import OpenVinoGraph
from export.graph_engines.tensorrt import TensorRTGraph

Kind = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
KINDS: tuple[str, ...] = get_args(Kind)


class GraphEngine(Protocol):
    name: str  # with its version, for provenance

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs, in the graph's order, the caller's to keep. EngineError where it can't."""

    def close(self) -> None:
        """Free what it holds."""


def open_graph(model: onnx.ModelProto, kind: str, batch: int) -> GraphEngine:
    """Compiled for this machine, for batches of that size. EngineError where it can't be."""
    engines: dict[str, Any] = {"onnxruntime": OnnxRuntimeGraph, "openvino": OpenVinoGraph}
    if kind in engines:
        opened: GraphEngine = engines[kind](model, batch)
        return opened
    if kind in NAMES:
        return TensorRTGraph(model, batch, flavour=kind)
    raise EngineError(f"{kind} is no engine. There are {', '.join(KINDS)}.")
