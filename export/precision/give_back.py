"""Layers whose precision costs too much return to float32, in the order of what they cost, until the limits hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edge_agent.bundle import Limits
from export.errors import ExportError
from export.precision.loss import Candidates, Loss, measure_loss
from train.progress import Work

RANKING_IMAGES = 8  # on which a layer's cost is measured; whether the limits hold is measured on all

# Layers that are given back -> the graph with all others in the precision
Build = Callable[[frozenset[str]], onnx.ModelProto]


@dataclass(frozen=True)
class Held:
    """A graph within the limits."""

    model: onnx.ModelProto
    loss: Loss
    given_back: dict[str, Loss]  # layer -> what it alone costs, dearest first


def hold(
    layers: Sequence[str],
    build: Build,
    candidates: Candidates,
    limits: Limits,
    auroc_loss: float,
    precision: str,
    as_computed: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
) -> Held:
    """The graph with the fewest layers given back that keeps the limits.

    What a layer costs is measured with it alone in the precision; how many of the dearest are given back is then found
    by bisection. `as_computed` makes of a graph what ONNX Runtime measures in its stead.

    Raises:
        ExportError: the limits hold with every layer given back only, or not even then.
    """
    trials: dict[int, tuple[onnx.ModelProto, Loss]] = {}

    def holds(count: int) -> bool:
        model = build(frozenset(dearest[:count]))
        trials[count] = model, measure_loss(as_computed(model).SerializeToString(), candidates, limits)
        return trials[count][1].holds(limits, auroc_loss)

    dearest: list[str] = []
    if holds(0):
        return Held(*trials[0], {})
    costs: dict[str, Loss] = {}
    some = candidates.some(RANKING_IMAGES)
    with Work(f"finding what each layer costs in {precision}", len(layers)) as work:
        for layer in layers:
            alone = as_computed(build(frozenset(layers) - {layer}))
            costs[layer] = measure_loss(alone.SerializeToString(), some, limits)
            work.done(1, f"noise {costs[layer].noise:.2g}")
    dearest = sorted(layers, key=lambda layer: -costs[layer].noise)
    fails, keeps = 0, len(layers)
    with Work(f"giving layers back from {precision}", keeps.bit_length()) as work:
        while keeps - fails > 1:
            middle = (fails + keeps) // 2
            fails, keeps = (fails, middle) if holds(middle) else (middle, keeps)
            work.done(1, f"{middle} of {len(layers)} given back")
    if keeps == len(layers):
        found = trials[max(trials)][1]
        raise ExportError(
            f"--precision {precision} can't hold its limits: with {max(trials)} of {len(layers)} layers in float32 the "
            f"map error is {found.map_error:.3g} (allowed {limits.map_error:.3g}), the score error "
            f"{found.score_error:.3g} ({limits.score_error:.3g}) and the loss of image AUROC {found.auroc_loss:.3g} "
            f"({auroc_loss:.3g}). No bundle was written. Export another precision, or train the run again."
        )
    return Held(*trials[keeps], {layer: costs[layer] for layer in dearest[:keeps]})
