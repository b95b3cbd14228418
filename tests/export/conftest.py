"""A product line, a run trained on it, and a run that was never trained but can do all that export asks of one."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from test_lower_rewrites import settled

from train.config import find_config, load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors.aesc import AESC
from train.detectors.aesc.config import AEScConfig
from train.fit import fit
from train.fit_threshold import fit_thresholds
from train.run import TrainedRun, open_run, read_held_out, write_held_out


@pytest.fixture(scope="session")
def line_folder(tmp_path_factory) -> Path:
    """Drawn parts of 64 px, good and defective."""
    folder = tmp_path_factory.mktemp("data") / "line"
    draw_product_line(folder, size=64, train=24, test_good=6, defects_per_type=2)
    return folder


@pytest.fixture(scope="session")
def trained_folder(line_folder, tmp_path_factory) -> Path:
    """The run folder of `train fit aesc --config tiny`, of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "line"
    config = load_config(find_config("aesc", "tiny"), AESC.schema, ["epochs=1"])
    fit(AESC, config, open_dataset(line_folder), folder, product="line")
    return folder


@pytest.fixture(scope="session")
def trained_run(trained_folder) -> TrainedRun:
    return open_run(trained_folder)


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory) -> TrainedRun:
    """Random weights and images, thresholds fitted as ever: seconds instead of a training."""
    return make_run(tmp_path_factory.mktemp("runs") / "untrained")


def make_run(folder: Path, *, held_out: int = 12, **settings: object) -> TrainedRun:
    folder.mkdir(exist_ok=True)
    config = AEScConfig.model_validate({"image_size": 64, "filters": 2, "dropout_passes": 5} | settings)
    model = AESC.build(config, nnx.Rngs(0))
    for seed, (_, part) in enumerate(nnx.iter_graph(model)):
        if isinstance(part, nnx.BatchNorm):
            settled(part, seed)
    model.eval()
    weights = jax.tree.map(jax.numpy.asarray, AESC.fold(model, config))
    generator = np.random.default_rng(0)
    noise = generator.integers(-20, 20, (held_out, 64, 64, 3)) + generator.integers(60, 180, (held_out, 1, 1, 3))
    images = noise.clip(0, 255).astype(np.uint8)
    write_held_out(folder, images, [f"good/{index}.png" for index in range(held_out)])
    run = TrainedRun(folder, AESC, config, 7, weights, None, {"product": "washer", "version_jax": jax.__version__})
    scores, maps = run.score_batch(read_held_out(run)[0])
    return TrainedRun(folder, AESC, config, 7, weights, fit_thresholds(scores, maps), run.provenance)
