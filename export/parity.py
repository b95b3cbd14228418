"""Does what ships say what the model says? ONNX Runtime against float32 JAX, on the golden set."""

from dataclasses import dataclass

import numpy as np

from edge_agent.bundle import Golden, Limits
from edge_agent.engines import Scores
from edge_agent.engines.golden import compare
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from export.errors import ExportError

# What an engine on any device must keep, by what the precision resolves: float32's last digits; in float16 a thousandth
# per operation, over some fifty; in int8 a step of 1/127 of a layer's range, after dear layers were given back.
LIMITS = {
    "fp32": Limits(map_error=1e-4, score_error=1e-4, verdict_flips=0),
    "fp16": Limits(map_error=0.02, score_error=0.01, verdict_flips=0),
    "int8": Limits(map_error=0.1, score_error=0.05, verdict_flips=0),
}
# Of image AUROC, 1.0 being perfect: good against stained held-out images, in the precision against float32.
AUROC_LOSS = {"fp16": 0.001, "int8": 0.005}
# Of the limits above 1e-4, what export may use up. The rest is for devices that sum in another order or in fewer bits.
SHARE_OF_EXPORT = 0.5
BATCHES = (1, 3)  # the line's, and one that shows the batch to be open


def at_export(precision: str) -> Limits:
    """What ONNX Runtime must keep for a bundle of this precision to be written."""
    limits = LIMITS[precision]
    if precision == "fp32":
        return limits
    return Limits(
        map_error=limits.map_error * SHARE_OF_EXPORT,
        score_error=limits.score_error * SHARE_OF_EXPORT,
        verdict_flips=limits.verdict_flips,
    )


def undecided(precision: str) -> float:
    """How near to the threshold a score may lie for its verdict to be rounding: no golden image does."""
    return 0.0 if precision == "fp32" else LIMITS[precision].score_error


@dataclass(frozen=True)
class Parity:
    """The largest differences over all batch sizes, in the units of `bundle.Limits`."""

    map_error: float
    score_error: float
    verdict_flips: int

    def as_numbers(self) -> dict[str, float]:
        """For the manifest."""
        return {name: float(getattr(self, name)) for name in Limits.model_fields}


def measure(model: bytes, golden: Golden) -> Parity:
    """Runs the golden set through ONNX Runtime, as the agent does it."""
    engine = OnnxRuntimeEngine(model)
    try:
        results = []
        for batch in BATCHES:
            answers = [engine.run(golden.images[at : at + batch]) for at in range(0, len(golden.images), batch)]
            results.append(compare(Scores(*(np.concatenate(v) for v in zip(*answers, strict=True))), golden))
    finally:
        engine.close()
    return Parity(
        max(result.map_error for result in results),
        max(result.score_error for result in results),
        max(result.verdict_flips for result in results),
    )


def hold(parity: Parity, limits: Limits, what: str) -> None:
    """Raises ExportError where a difference is beyond its limit."""
    for name in Limits.model_fields:
        found, allowed = getattr(parity, name), getattr(limits, name)
        if not found <= allowed:
            raise ExportError(
                f"{what}: ONNX Runtime and JAX disagree on the golden set: {name} is {found:.3g}, allowed is "
                f"{allowed:.3g}. No bundle was written. Either an operation is lowered wrongly, or the model's numbers "
                'are too large for float32: docs/export.md, "When the gate refuses", shows how to find out.'
            )
