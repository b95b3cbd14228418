"""int8 between Q/DQ nodes: ONNX Runtime's static quantisation, placed where TensorRT wants it and nowhere else.

A layer's weights are int8, one scale per output channel; what it reads is int8 with one scale, found on good training
images; both are symmetric, so every zero point is 0. Its bias, its result and everything between layers is float32: a
latent that passes a coupling by, a skip or a residual keeps its precision. Giving a layer back takes its Q/DQ away.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.precision.graph import WEIGHTED, FloatGraph

APART = "_to_int8"  # names of the copies that layers read while ranges are found


def quantise(
    graph: FloatGraph, images: np.ndarray, on_progress: Callable[[int], None] = lambda done: None
) -> onnx.ModelProto:
    """The graph with every layer in int8, checked by ONNX; `on_progress` counts calibration images."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        out = Path(folder) / "int8.onnx"
        quantize_static(
            _inputs_apart(graph),
            str(out),
            _Reader(images, on_progress),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(WEIGHTED),
            nodes_to_quantize=list(graph.layers),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "CalibTensorRangeSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": sorted(WEIGHTED),
            },
        )
        model = onnx.load(out)
    aliases = {node.output[0]: node.input[0] for node in model.graph.node if node.output[0].endswith(APART)}
    kept = [node for node in model.graph.node if node.output[0] not in aliases]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = aliases.get(name, name)
    return _finished(graph, kept, list(model.graph.initializer))


def give_back(graph: FloatGraph, quantised: onnx.ModelProto, layers: Set[str]) -> onnx.ModelProto:
    """`quantise`'s graph with these layers in float32 again."""
    originals = {node.name: node for node in graph.nodes if node.name in layers}
    nodes = [originals.get(node.name, node) for node in quantised.graph.node]
    return _finished(graph, nodes, [*quantised.graph.initializer, *graph.model.graph.initializer])


def int8_layers(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the layers that read int8, as the graph has it."""
    scaled = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return frozenset(node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[0] in scaled)


def _inputs_apart(graph: FloatGraph) -> onnx.ModelProto:
    """Layers read copies of their own: ONNX Runtime quantises a tensor for all its readers, but an Add or a Concat that
    reads the same is not to lose precision.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    layers, copied = set(graph.layers), set()
    for original in graph.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.name in layers:
            source = node.input[0]
            node.input[0] = source + APART
            if source not in copied:
                copied.add(source)
                model.graph.node.append(helper.make_node("Identity", [source], [source + APART], name=source + APART))
        model.graph.node.append(node)
    return model


def _finished(graph: FloatGraph, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    """Sorted, without what nothing reads, under the names and versions of the float32 graph; checked by ONNX."""
    kept, read = [], set(graph.outputs)
    for node in reversed(_sorted(graph, nodes, constants)):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(reversed(kept))
    known = {constant.name: constant for constant in constants if constant.name in read}
    model.graph.initializer.extend(known.values())
    onnx.checker.check_model(model, full_check=True)
    return model


def _sorted(graph: FloatGraph, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Every node after what it reads, in the float32 graph's order; Q/DQ nodes before what reads them."""
    makers = {name: node for node in nodes for name in node.output}
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    done = {"", *(constant.name for constant in constants), *(value.name for value in graph.model.graph.input)}
    ordered: list[onnx.NodeProto] = []
    for first in sorted(nodes, key=lambda node: place.get(node.name, len(place))):
        waiting = [first]
        while waiting:
            node = waiting[-1]
            missing = [name for name in node.input if name not in done]
            if missing:
                waiting.extend(makers[name] for name in missing)
                continue
            waiting.pop()
            if node.output[0] not in done:
                done.update(node.output)
                ordered.append(node)
    return ordered


class _Reader:
    """ONNX Runtime's CalibrationDataReader: one image at a time, then None."""

    def __init__(self, images: np.ndarray, on_progress: Callable[[int], None]):
        self._images, self._done, self._on_progress = images, 0, on_progress

    def get_next(self) -> dict[str, Any] | None:
        if self._done == len(self._images):
            return None
        self._done += 1
        self._on_progress(1)
        return {"image": self._images[self._done - 1 : self._done]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.get_next, None)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        raise ValueError("Images are read one after the other.")


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime logs advice on models of other exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
