"""What a precision costs against float32: scores, maps, verdicts, AUROC; on held-out images and stained copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.bundle import Golden, Limits
from edge_agent.engines import Scores
from edge_agent.engines.golden import compare
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from train.metrics.auroc import auroc, rank

AT_ONCE = 8  # images


@dataclass(frozen=True, eq=False)
class Candidates:
    """Held-out good images and copies with a drawn stain, never test images, and what float32 JAX makes of them."""

    answers: Golden
    is_good: np.ndarray

    def some(self, count: int) -> Candidates:
        """At most `count` of them, spread over the order of their scores."""
        order = np.argsort(self.answers.image_score, kind="stable")
        chosen = np.sort(order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))])
        return self.at(chosen)

    def at(self, chosen: np.ndarray) -> Candidates:
        found = self.answers
        return Candidates(
            Golden(found.images[chosen], found.image_score[chosen], found.raw_score[chosen], found.anomaly_map[chosen]),
            self.is_good[chosen],
        )


@dataclass(frozen=True)
class Loss:
    """Largest differences from float32 in the units of `bundle.Limits`, and the AUROC of good against stained."""

    map_error: float
    score_error: float
    verdict_flips: int
    image_auroc: float
    image_auroc_float32: float
    noise: float  # of maps and scores: root mean squares over the limits, which add up over layers

    @property
    def auroc_loss(self) -> float:
        return max(self.image_auroc_float32 - self.image_auroc, 0.0)

    def holds(self, limits: Limits, auroc_loss: float) -> bool:
        within = self.map_error <= limits.map_error and self.score_error <= limits.score_error
        return within and self.auroc_loss <= auroc_loss


def measure_loss(model: bytes, candidates: Candidates, limits: Limits) -> Loss:
    """Of a model in ONNX Runtime, against what float32 JAX says."""
    engine = OnnxRuntimeEngine(model)
    try:
        images = candidates.answers.images
        answers = [engine.run(images[at : at + AT_ONCE]) for at in range(0, len(images), AT_ONCE)]
    finally:
        engine.close()
    scores = Scores(*(np.concatenate(values) for values in zip(*answers, strict=True)))
    exact = candidates.answers
    result = compare(scores, exact)
    map_range = float(exact.anomaly_map.max() - exact.anomaly_map.min()) or 1.0
    map_noise = _root_mean_square((scores.anomaly_map - exact.anomaly_map) / map_range) / limits.map_error
    score_noise = _root_mean_square((scores.image_score - exact.image_score) / np.maximum(1.0, exact.image_score))
    return Loss(
        result.map_error,
        result.score_error,
        result.verdict_flips,
        _auroc(scores.image_score, candidates.is_good),
        _auroc(exact.image_score, candidates.is_good),
        max(map_noise, score_noise / limits.score_error),
    )


def _auroc(scores: np.ndarray, is_good: np.ndarray) -> float:
    found = auroc(rank(np.nan_to_num(scores, nan=0.0), ~is_good))  # NaN is no score: it ranks as the least
    return 0.0 if found is None else float(found)


def _root_mean_square(difference: np.ndarray) -> float:
    found = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    return found if np.isfinite(found) else float("inf")
