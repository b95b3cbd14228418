"""The same metrics by the same code as `train evaluate`, of the artefact that ships."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

from edge_agent.bundle import Bundle
from edge_agent.engines import Engine, open_engine
from edge_agent.engines.golden import check_golden
from train.data.folder import Dataset
from train.evaluate import About, Evaluation, HeldOut, evaluate
from train.fit_threshold import Thresholds


def evaluate_bundle(
    bundle: Bundle,
    dataset: Dataset,
    *,
    held_out: HeldOut | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """metrics.json of a bundle, run as the agent runs it; also which bundle, engine and precision it was.

    Raises as `judge_bundle`.
    """
    return judge_bundle(bundle, dataset, held_out=held_out, on_progress=on_progress).metrics


def judge_bundle(
    bundle: Bundle,
    dataset: Dataset,
    *,
    held_out: HeldOut | None = None,
    engine: Engine | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """The same with every verdict and every map.

    Args:
        held_out: images for a set without defects, which the run has and the bundle has not.
        engine: that runs it; by default the agent's ONNX Runtime. It is closed.

    Raises:
        DataError, EvaluationError: as `train.evaluate`.
        EngineError: the engine can't run the model, or disagrees with the golden set.
    """
    manifest = bundle.manifest
    engine = engine or open_engine(bundle, "onnxruntime")
    try:
        check_golden(engine, bundle)

        def score_batch(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores = engine.run(images)
            return scores.raw_score, scores.anomaly_map * np.float32(manifest.thresholds.pixel)

        evaluation = evaluate(
            score_batch,
            dataset,
            manifest.preprocessing,
            Thresholds.model_validate(manifest.thresholds.model_dump()),
            _about(bundle),
            held_out=held_out,
            on_progress=on_progress,
        )
    finally:
        engine.close()
    shipped = {
        "bundle": bundle.digest,
        "bundle_version": manifest.version,
        "precision": manifest.precision,
        "engine": engine.name,
    }
    return replace(evaluation, metrics=evaluation.metrics | shipped)


def _about(bundle: Bundle) -> About:
    provenance = bundle.manifest.provenance
    versions = {
        name.removeprefix("version_"): str(value) for name, value in provenance.items() if name.startswith("version_")
    }
    return About(
        product=bundle.manifest.name,
        system=bundle.manifest.system,
        scoring=str(provenance.get("scoring", "")),
        seed=int(provenance.get("seed") or 0),
        config_digest=str(provenance.get("config_digest", "")),
        versions=versions | {"onnxruntime": installed_version("onnxruntime")},
    )
