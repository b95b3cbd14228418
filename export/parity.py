"""Does what ships say what the model says? ONNX Runtime against float32 JAX, on the golden set."""

from dataclasses import dataclass

import numpy as np

from edge_agent.bundle import Golden, Limits
from edge_agent.engines import Scores
from edge_agent.engines.golden import compare
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from export.errors import ExportError

LIMITS = {"fp32": Limits(map_error=1e-4, score_error=1e-4, verdict_flips=0)}
BATCHES = (1, 3)  # the line's, and one that shows the batch to be open


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
