"""A float32 graph in the precision asked for, within its limits, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np
import onnx

from edge_agent.bundle import GivenBack, PrecisionLoss
from export.parity import AUROC_LOSS, at_export
from export.precision.give_back import hold
from export.precision.graph import FloatGraph
from export.precision.half import half_nodes, overflowing, rounded, to_half
from export.precision.int8 import give_back, quantise
from export.precision.loss import Candidates, Loss
from export.precision.peaks import peaks
from train.progress import Work


@dataclass(frozen=True)
class Converted:
    """The graph that ships, and its manifest's statement."""

    model: onnx.ModelProto
    loss: PrecisionLoss


def to_fp16(model: onnx.ModelProto, candidates: Candidates) -> Converted:
    """float16 where the network allows it. Raises ExportError where its limits can't be held."""
    graph = FloatGraph(model)
    with Work("looking for values too large for float16", len(candidates.is_good)) as work:
        largest = peaks(graph, candidates.answers.images, work.done)
    too_large = overflowing(graph, half_nodes(graph), largest)

    def build(layers: frozenset[str]) -> onnx.ModelProto:
        return to_half(graph, graph.of_layers(layers) | too_large.keys())

    held = hold(graph.layers, build, candidates, at_export("fp16"), AUROC_LOSS["fp16"], "fp16", rounded)
    returned = [
        GivenBack(node=node, reason="overflow", peak=peak if isfinite(peak) else None)
        for node, peak in too_large.items()
    ]
    return Converted(held.model, _statement(candidates, held.loss, len(graph.layers), returned, held.given_back))


def to_int8(model: onnx.ModelProto, candidates: Candidates, calibration: np.ndarray) -> Converted:
    """int8 layers, ranges found on `calibration`, uint8 images. Raises ExportError where the limits can't be held."""
    graph = FloatGraph(model)
    with Work("calibrating int8", len(calibration)) as work:
        quantised = quantise(graph, calibration, work.done)
    build = partial(give_back, graph, quantised)
    held = hold(graph.layers, build, candidates, at_export("int8"), AUROC_LOSS["int8"], "int8")
    return Converted(held.model, _statement(candidates, held.loss, len(graph.layers), [], held.given_back))


def _statement(
    candidates: Candidates, loss: Loss, layers: int, overflows: Sequence[GivenBack], costs: dict[str, Loss]
) -> PrecisionLoss:
    dear = [
        GivenBack(node=layer, reason="accuracy", map_error=cost.map_error, score_error=cost.score_error)
        for layer, cost in costs.items()
    ]
    return PrecisionLoss(
        n_good=int(candidates.is_good.sum()),
        n_stained=int((~candidates.is_good).sum()),
        image_auroc_float32=loss.image_auroc_float32,
        image_auroc=loss.image_auroc,
        verdict_flips=loss.verdict_flips,
        map_error=loss.map_error,
        score_error=loss.score_error,
        layers=layers,
        given_back=(*overflows, *dear),
    )
