"""The whole way of AnoGAN and f-AnoGAN: a killed run, a judged run, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from checkpointed import last_state
from typer.testing import CliRunner

from train.__main__ import app
from train.config import dump_config, load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors.anogan import ANOGAN
from train.detectors.f_anogan import F_ANOGAN
from train.fit import fit
from train.run import RunError, open_run

SMALL = ("network=seed", "image_size=42", "tile_overlap=14", "filters=1", "latent=4", "batch_size=4")
SHORT = ("epochs=3", "steps_per_epoch=2", "validation_samples=4", "inversion_steps=4")


def tiny(*overrides: str):
    return load_config(Path("configs/anogan/tiny.yaml"), ANOGAN.schema, [*SMALL, *SHORT, *overrides])


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=42, train=20, test_good=2, defects_per_type=1)
    return folder


@pytest.fixture(scope="module")
def run(line, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(ANOGAN, tiny(), open_dataset(line), out, product="line")
    return out


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(line, run, tmp_path):
    """SIGKILL while the first checkpoint is written or just after: networks, both optimizers, pictures."""
    out, settings = tmp_path / "run", tmp_path / "settings.yaml"
    settings.write_text(dump_config(tiny()))
    command = [
        *(sys.executable, "-m", "train", "fit", "anogan", "--data", str(line), "--out", str(out), "--product", "line"),
        *("--config", str(settings)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    while process.poll() is None and not list((out / "checkpoints").glob("*")):
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "thresholds.json").exists()
    fit(ANOGAN, tiny(), open_dataset(line), out, product="line", resume=True)
    ours, theirs = (last_state(ANOGAN, folder, tiny()) for folder in (out, run))
    assert set(ours.opt_state) == {"discriminator", "generator"}
    for a, b in zip(
        *(jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))) for state in (ours, theirs)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for name in ("thresholds.json", "pictures/epoch_0003.png"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    assert open_run(out).figures == open_run(run).figures


def test_a_run_keeps_its_figures_and_pictures_of_every_epoch(run):
    trained = open_run(run)
    assert len(trained.figures) == 3
    assert {"discriminator_loss", "generator_loss", "loss", "spread", "closeness"} <= set(trained.figures[0])
    drawn = cv2.imread(str(run / "pictures" / "epoch_0003.png"))
    assert drawn.shape == (6 * 28 + 5 * 2, 6 * 28 + 5 * 2, 3)


def test_evaluate_shows_drawn_parts_losses_and_searches(run, line):
    done = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(line), "--json"])
    assert done.exit_code == 0, done.output
    assert 0 <= json.loads(done.stdout)["image_auroc"] <= 1
    page = (run / "report.html").read_text()
    for heading in ("What the generator draws", "Training", "The search for z"):
        assert f"<h2>{heading}</h2>" in page
    assert "of each of 4 tiles of 28 px" in page
    assert page.count("data:image/png") == 3


def test_the_search_may_be_changed_without_training_again(run):
    longer = open_run(run, ["inversion_steps=6", "distance=mse"])
    assert longer.scoring_mode == "6_steps_mse"
    with pytest.raises(RunError, match="--set filters: that was fixed"):
        open_run(run, ["filters=2"])


def test_a_batch_that_no_image_fills_is_a_sentence(line, tmp_path):
    config = load_config(Path("configs/f_anogan/tiny.yaml"), F_ANOGAN.schema, ["steps_per_epoch=0", "batch_size=9"])
    with pytest.raises(RunError, match="16 training images don't fill 2 batches of 9, so an epoch of one pass has no"):
        fit(F_ANOGAN, config, open_dataset(line), tmp_path / "run", product="line")


def test_a_checkpoint_without_its_discriminator_is_a_sentence(run, tmp_path):
    for entry in run.iterdir():
        if entry.name != "checkpoints":
            (tmp_path / entry.name).symlink_to(entry)
    state = last_state(ANOGAN, run, tiny())
    from train.checkpoint import Checkpoints

    with Checkpoints(tmp_path / "checkpoints", ANOGAN.monitor) as checkpoints:
        alone = state._replace(params=type(state.params)({"generator": state.params["generator"]}))
        checkpoints.save(alone, {ANOGAN.monitor: 0.0}, {})
    with pytest.raises(RunError, match="does not hold what anogan is made of.*discriminator"):
        open_run(tmp_path)
