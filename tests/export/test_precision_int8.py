"""int8 graphs: Q/DQ where layers read and nowhere else, as TensorRT takes them; given-back layers are float32 again."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from precise_graphs import constants, named
from untrained_run import make_fastflow_run

from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from export.detector import LineScorer, lower_detector
from export.precision.graph import FloatGraph
from export.precision.int8 import give_back, int8_layers, quantise
from train.run import read_held_out


def graph_of(run) -> FloatGraph:
    return FloatGraph(lower_detector(run, LineScorer(run, run.thresholds)))


@pytest.fixture(scope="module")
def images(untrained_run) -> np.ndarray:
    return read_held_out(untrained_run)[0]


@pytest.fixture(scope="module", params=["aesc", "fastflow"])
def both(request, untrained_run, images, tmp_path_factory) -> tuple[FloatGraph, onnx.ModelProto]:
    """A float32 graph, and the same in int8."""
    run = untrained_run if request.param == "aesc" else make_fastflow_run(tmp_path_factory.mktemp("runs") / "fastflow")
    graph = graph_of(run)
    return graph, quantise(graph, images)


def readers(model: onnx.ModelProto, name: str) -> list[tuple[onnx.NodeProto, int]]:
    return [(node, place) for node in model.graph.node for place, read in enumerate(node.input) if read == name]


def test_every_layer_reads_int8_and_nothing_else_does(both):
    graph, model = both
    assert int8_layers(model) == set(graph.layers)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert {reader.op_type for reader, _ in readers(model, node.output[0])} == {"DequantizeLinear"}
        if node.op_type == "DequantizeLinear":
            assert {(reader.name in graph.layers, place < 2) for reader, place in readers(model, node.output[0])} == {
                (True, True)
            }
    quantised = {"QuantizeLinear", "DequantizeLinear"}
    rest = Counter(node.op_type for node in model.graph.node if node.op_type not in quantised)
    assert rest == Counter(node.op_type for node in graph.nodes)


def test_scales_are_as_tensorrt_takes_them(both):
    """int8, no zero point but 0, a scale per channel of the result for weights and one for what is read."""
    graph, model = both
    known, makers = constants(model), {name: node for node in model.graph.node for name in node.output}
    for name in graph.layers:
        layer = named(model)[name]
        read, weights = makers[layer.input[0]], makers[layer.input[1]]
        assert makers[read.input[0]].op_type == "QuantizeLinear"
        assert known[weights.input[0]].data_type == TensorProto.INT8
        (axis,) = (attribute.i for attribute in weights.attribute if attribute.name == "axis")
        channels = known[weights.input[0]].dims[axis]
        assert axis == (0 if layer.op_type == "Conv" else 1)
        assert list(known[weights.input[1]].dims) == [channels]
        assert list(known[read.input[1]].dims) == []
        for quantiser in (read, weights, makers[read.input[0]]):
            zero = known[quantiser.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
        if len(layer.input) == 3:
            assert known[layer.input[2]].data_type == TensorProto.FLOAT
        assert layer.output[0] in {output for node in graph.nodes for output in node.output}


def test_given_back_layers_are_float32_again(both):
    graph, quantised = both
    back = frozenset(graph.layers[::2])
    model = give_back(graph, quantised, back)
    assert int8_layers(model) == set(graph.layers) - back
    original, weights = named(graph.model), constants(model)
    for name in back:
        assert named(model)[name] == original[name]
        assert weights[original[name].input[1]].data_type == TensorProto.FLOAT
    read = {name for node in model.graph.node for name in node.input}
    assert weights.keys() <= read


def test_everything_given_back_is_the_float32_graph(both, images):
    graph, quantised = both
    model = give_back(graph, quantised, frozenset(graph.layers))
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in graph.nodes]
    found, exact = (OnnxRuntimeEngine(m.SerializeToString()).run(images) for m in (model, graph.model))
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_answers_are_near_and_not_the_same(both, images):
    graph, quantised = both
    found, exact = (OnnxRuntimeEngine(m.SerializeToString()).run(images) for m in (quantised, graph.model))
    assert not np.array_equal(found.anomaly_map, exact.anomaly_map)
    np.testing.assert_allclose(found.image_score, exact.image_score, rtol=0.3)


def test_ranges_come_from_the_images_that_are_given(untrained_run):
    """Black images make the first layer's range 0 or so; white ones 1."""
    graph = graph_of(untrained_run)
    scales = []
    for level in (25, 255):
        model = quantise(graph, np.full((2, 64, 64, 3), level, np.uint8))
        makers = {name: node for node in model.graph.node for name in node.output}
        scale = makers[named(model)[graph.layers[0]].input[0]].input[1]
        scales.append(float(numpy_helper.to_array(constants(model)[scale])))
    assert scales == pytest.approx([25 / 255 / 127, 1 / 127], rel=0.01)


def test_an_interpolation_is_no_layer(tmp_path):
    graph = graph_of(make_fastflow_run(tmp_path / "run"))
    assert {named(graph.model)[name].op_type for name in graph.layers} == {"Conv"}
    products = [node for node in graph.nodes if node.op_type == "MatMul"]
    assert products
    assert all(node.name in graph.tail for node in products)
