"""A run that was never trained but can do all that export asks of one."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from test_lower_rewrites import settled

from train.detectors.aesc import AESC
from train.detectors.aesc.config import AEScConfig
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
    generator = np.random.default_rng(0)
    noise = generator.integers(-20, 20, (held_out, 64, 64, 3)) + generator.integers(60, 180, (held_out, 1, 1, 3))
    images = noise.clip(0, 255).astype(np.uint8)
    write_held_out(folder, images, [f"good/{index}.png" for index in range(held_out)])
    run = TrainedRun(folder, AESC, config, 7, weights, None, {"product": "washer", "version_jax": jax.__version__})
    scores, maps = run.score_batch(read_held_out(run)[0])
    return TrainedRun(folder, AESC, config, 7, weights, fit_thresholds(scores, maps), run.provenance)
