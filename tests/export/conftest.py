"""A product line, a run trained on it, and a run that was never trained but can do all that export asks of one."""

from pathlib import Path

import pytest
from untrained_run import make_run

from train.config import find_config, load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors.aesc import AESC
from train.fit import fit
from train.run import TrainedRun, open_run


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
