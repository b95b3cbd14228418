"""Layers return to float32 in the order of what they cost, as many as the limits need and no more."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_agent.bundle import Limits
from export.detector import LineScorer, lower_detector
from export.errors import ExportError
from export.golden import score_candidates
from export.precision.give_back import RANKING_IMAGES, hold
from export.precision.graph import FloatGraph
from export.precision.half import to_half
from export.precision.loss import measure_loss

LIMITS = Limits(map_error=0.01, score_error=0.01, verdict_flips=0)


@pytest.fixture(scope="module")
def scorer(untrained_run) -> LineScorer:
    return LineScorer(untrained_run, untrained_run.thresholds)


@pytest.fixture(scope="module")
def graph(untrained_run, scorer) -> FloatGraph:
    return FloatGraph(lower_detector(untrained_run, scorer))


@pytest.fixture(scope="module")
def candidates(untrained_run, scorer):
    return score_candidates(untrained_run, scorer)


def spoiling(graph: FloatGraph, errors: dict[str, float], everywhere: float = 0.0):
    """A precision that changes the weights of these layers by so much; `everywhere` whatever is given back."""

    def build(given_back: frozenset[str]) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        changes = {
            node.input[1]: 1 + errors.get(node.name, 0.0) * (node.name not in given_back) + everywhere
            for node in graph.nodes
            if node.name in graph.layers
        }
        for constant in model.graph.initializer:
            if constant.name in changes:
                array = numpy_helper.to_array(constant) * np.float32(changes[constant.name])
                constant.CopyFrom(numpy_helper.from_array(array, constant.name))
        return model

    return build


def test_nothing_is_given_back_where_the_limits_hold(graph, candidates):
    held = hold(graph.layers, spoiling(graph, {}), candidates, LIMITS, 0.001, "int8")
    assert held.given_back == {}
    assert held.loss.map_error < 1e-4


def test_the_dearest_are_given_back_and_no_more(graph, candidates):
    bad, worse, harmless = graph.layers[-1], graph.layers[0], graph.layers[5]
    build = spoiling(graph, {bad: 0.2, worse: 0.9, harmless: 1e-4})
    held = hold(graph.layers, build, candidates, LIMITS, 0.001, "int8")
    assert set(held.given_back) == {bad, worse}
    costs = [loss.noise for loss in held.given_back.values()]
    assert costs == sorted(costs, reverse=True)
    assert held.loss.holds(LIMITS, 0.001)
    alone = build(frozenset(graph.layers) - {bad})
    expected = measure_loss(alone.SerializeToString(), candidates.some(RANKING_IMAGES), LIMITS)
    assert held.given_back[bad].map_error == pytest.approx(expected.map_error)
    assert held.model == build(frozenset({bad, worse}))


def test_limits_that_only_float32_keeps_are_refused_with_what_was_found(graph, candidates):
    with pytest.raises(
        ExportError, match=r"--precision fp16 can't hold its limits: with 11 of 12 layers in float32 the map error is "
    ):
        hold(graph.layers, spoiling(graph, {}, everywhere=0.2), candidates, LIMITS, 0.001, "fp16")


def test_a_loss_of_auroc_alone_is_a_loss(graph, candidates):
    exact = measure_loss(graph.model.SerializeToString(), candidates, LIMITS)
    assert exact.auroc_loss == 0
    assert exact.holds(LIMITS, 0.0)
    worse = exact.__class__(**{**exact.__dict__, "image_auroc": exact.image_auroc_float32 - 0.002})
    assert worse.holds(LIMITS, 0.0021)
    assert not worse.holds(LIMITS, 0.0019)


def test_layers_given_back_from_float16_compute_in_float32_with_what_follows_them(graph):
    back = frozenset(graph.layers[3:5])
    kept = graph.of_layers(back)
    assert back < kept
    weights = {constant.name: constant.data_type for constant in to_half(graph, kept).graph.initializer}
    for node in to_half(graph, kept).graph.node:
        if node.name in graph.layers:
            is_wide = weights[node.input[1]] == onnx.TensorProto.FLOAT
            assert is_wide == (node.name in back)
    everything = to_half(graph, graph.of_layers(frozenset(graph.layers)))
    assert all(constant.data_type != onnx.TensorProto.FLOAT16 for constant in everything.graph.initializer)
