"""Runs that were never trained but can do all that export asks of one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from test_lower_rewrites import settled

from train.config import RunConfig
from train.detectors import Detector
from train.detectors.aesc import AESC
from train.detectors.aesc.config import AEScConfig
from train.detectors.fastflow import FASTFLOW, FastFlowConfig
from train.fit_threshold import fit_thresholds
from train.run import TrainedRun, read_held_out, write_held_out


def make_run(folder: Path, *, held_out: int = 12, **settings: object) -> TrainedRun:
    folder.mkdir(exist_ok=True)
    config = AEScConfig.model_validate({"image_size": 64, "filters": 2, "dropout_passes": 5} | settings)
    model = AESC.build(config, nnx.Rngs(0))
    for seed, (_, part) in enumerate(nnx.iter_graph(model)):
        if isinstance(part, nnx.BatchNorm):
            settled(part, seed)
    model.eval()
    weights = jax.tree.map(jax.numpy.asarray, AESC.fold(model, None, config))
    return scored_run(folder, AESC, config, weights, held_out)


def make_fastflow_run(folder: Path, *, held_out: int = 12, **settings: object) -> TrainedRun:
    folder.mkdir(exist_ok=True)
    given = {"backbone": "mini", "image_size": 64, "flow_steps": 2, "normalisation": "layer_norm", "top_share": 0.01}
    config = FastFlowConfig.model_validate(given | settings)
    network = FASTFLOW.build(config, nnx.Rngs(0))
    network.eval()
    weights = FASTFLOW.fold(network, FASTFLOW.frozen.load(config), config)
    return scored_run(folder, FASTFLOW, config, jax.tree.map(jax.numpy.asarray, weights), held_out)


def scored_run(folder: Path, detector: Detector, config: RunConfig, weights: Any, held_out: int) -> TrainedRun:
    """Held-out images of noise, and thresholds fitted to their scores."""
    generator = np.random.default_rng(0)
    noise = generator.integers(-20, 20, (held_out, 64, 64, 3)) + generator.integers(60, 180, (held_out, 1, 1, 3))
    images = noise.clip(0, 255).astype(np.uint8)
    write_held_out(folder, images, [f"good/{index}.png" for index in range(held_out)])
    provenance = {"product": "washer", "version_jax": jax.__version__}
    run = TrainedRun(folder, detector, config, 7, weights, None, provenance)
    scores, maps = run.score_batch(read_held_out(run)[0])
    return replace(run, thresholds=fit_thresholds(scores, maps))
