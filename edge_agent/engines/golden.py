"""Does this engine, on this device, still say what the model said when it was exported?"""

from dataclasses import dataclass

import numpy as np

from edge_agent.bundle import Bundle, Golden, Limits, read_golden
from edge_agent.engines import Engine, EngineError, Scores

# A golden score this close to 1.0 lies on neither side. Thresholds are scores that occurred, so one image usually sits
# exactly on it, and the last bit of any other processor would flip it.
TIE = 1e-4


@dataclass(frozen=True)
class GoldenResult:
    """How far an engine is from golden/, in the units of `bundle.Limits`."""

    n: int  # images compared
    map_error: float
    score_error: float
    verdict_flips: int


def compare(scores: Scores, golden: Golden) -> GoldenResult:
    """Largest differences over all golden images; any NaN or infinity makes the error infinite."""
    map_range = float(golden.anomaly_map.max() - golden.anomaly_map.min()) or 1.0
    raw_range = float(golden.raw_score.max()) or 1.0
    score_error = _largest((scores.image_score - golden.image_score) / np.maximum(1.0, golden.image_score))
    flips = (scores.image_score <= 1.0) != (golden.image_score <= 1.0)
    flips = flips & (np.abs(golden.image_score - 1.0) > TIE) | ~np.isfinite(scores.image_score)
    return GoldenResult(
        n=len(golden.images),
        map_error=_largest(scores.anomaly_map - golden.anomaly_map) / map_range,
        score_error=max(score_error, _largest(scores.raw_score - golden.raw_score) / raw_range),
        verdict_flips=int(flips.sum()),
    )


def check_golden(engine: Engine, bundle: Bundle, *, batch: int = 1) -> GoldenResult:
    """Run the golden images through `engine`, `batch` at a time (the line's batch: 1), and hold it to the limits.

    Returns what was measured. EngineError where a limit is exceeded, with what was found and allowed.
    """
    golden = read_golden(bundle)
    answers = [engine.run(golden.images[at : at + batch]) for at in range(0, len(golden.images), batch)]
    result = compare(Scores(*(np.concatenate(values) for values in zip(*answers, strict=True))), golden)
    if too_far := excess(result, bundle):
        raise EngineError(
            f"The engine {engine.name} disagrees with the golden set of {bundle.folder}: {too_far}, over {result.n} "
            "images. Don't use it on this device: update the engine, or export the bundle again, in another precision "
            "if need be."
        )
    return result


def excess(result: GoldenResult, bundle: Bundle) -> str | None:
    """The first limit of the bundle that is exceeded, with what was found and what is allowed; None: it agrees."""
    for limit in Limits.model_fields:
        found, allowed = getattr(result, limit), getattr(bundle.manifest.limits, limit)
        if not found <= allowed:
            return f"{limit} is {found:.3g}, allowed is {allowed:.3g}"
    return None


def _largest(difference: np.ndarray) -> float:
    worst = float(np.abs(difference).max())
    return worst if np.isfinite(worst) else float("inf")
