"""The training loop: what a run folder holds, that a killed run loses nothing, what a failed one says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpointed import last_state

from train.checkpoint import Checkpoints
from train.config import load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors import find_detector
from train.epochs import TrainingDiverged
from train.fit import fit, split_good
from train.run import RunError, open_run, read_held_out

AESC = find_detector("aesc")


@pytest.fixture(scope="session")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=64, train=24, test_good=4, defects_per_type=2)
    return folder


def tiny(*overrides: str):
    settings = ["filters=2", "epochs=2", "steps_per_epoch=4", "batch_size=4", "validation_samples=4", *overrides]
    return load_config(Path("configs/aesc/tiny.yaml"), AESC.schema, settings)


@pytest.fixture(scope="session")
def run(line, tmp_path_factory) -> Path:
    """A finished tiny run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(AESC, tiny(), open_dataset(line), out, product="line")
    return out


def losses(out: Path) -> list[float]:
    """Mean loss of each epoch. Not the parameters: a bias before batch normalisation has no gradient but rounding, of
    which Adam makes whole steps."""
    with Checkpoints(out / "checkpoints", AESC.monitor) as checkpoints:
        return [checkpoints.metrics(step)["loss"] for step in (4, 8)]


def assert_same_state(ours, theirs):
    ours, theirs = (state._replace(key=jax.random.key_data(state.key)) for state in (ours, theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_killed_before_its_config_was_written_starts_anew(line, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "provenance.json").write_text('{"system": "aesc"}')
    (out / ".config.yaml.k3x").write_text("epochs: ")
    fit(AESC, tiny("epochs=1"), open_dataset(line), out, product="line")
    assert open_run(out).thresholds is not None


def test_run_folder_holds_what_the_next_step_needs(run, line):
    trained = open_run(run)
    images, names = read_held_out(trained)
    split = json.loads((run / "split.json").read_text())
    assert list(names) == split["held_out"]
    assert not set(split["held_out"]) & set(split["train"])
    assert len(split["held_out"]) + len(split["train"]) == 24
    assert images.shape == (len(names), 64, 64, 3)
    assert trained.thresholds is not None
    assert trained.thresholds.n_held_out == len(names)
    assert trained.provenance["product"] == "line"
    assert load_config(run / "config.yaml", AESC.schema) == tiny()  # a --config file itself
    assert list((run / "events").glob("events.out.tfevents.*"))
    scores, maps = trained.score_batch(images)
    assert scores.max() == pytest.approx(trained.thresholds.image)
    assert maps.shape == images.shape[:3]


def test_scoring_can_be_changed_without_training_again_and_nothing_else(run):
    uncertain = open_run(run, ["scoring=uncertainty", "dropout_passes=4"])
    assert uncertain.scoring_mode == "uncertainty"
    assert uncertain.thresholds != open_run(run).thresholds
    with pytest.raises(RunError, match="--set learning_rate: that was fixed when .* was trained"):
        open_run(run, ["learning_rate=1.0"])


@pytest.mark.slow
@pytest.mark.parametrize("per_dispatch", [2, 4])
def test_steps_per_dispatch_changes_nothing(line, run, tmp_path, per_dispatch):
    config = tiny(f"steps_per_dispatch={per_dispatch}")
    fit(AESC, config, open_dataset(line), tmp_path / "run", product="line")
    assert losses(tmp_path / "run") == pytest.approx(losses(run), rel=1e-3)


def test_streamed_images_train_as_resident_ones_do(line, run, tmp_path):
    config = tiny("resident_limit_mb=0")
    fit(AESC, config, open_dataset(line), tmp_path / "run", product="line")
    assert losses(tmp_path / "run") == pytest.approx(losses(run), rel=1e-3)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits(line, run, tmp_path):
    """SIGKILL, several times, each at another moment; then --resume to the end."""
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "train", "fit", "aesc", "--data", str(line), "--out", str(out), "--product", "line"),
        *("--config", str(run / "config.yaml"), "--resume"),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    kills = 0
    while kills < 2:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = len(list((out / "checkpoints").glob("*"))) if out.exists() else 0
        while process.poll() is None and len(list((out / "checkpoints").glob("*"))) == seen:
            time.sleep(0.01)  # until the next checkpoint begins to be written
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            break
    assert kills >= 1
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert_same_state(last_state(AESC, out, tiny()), last_state(AESC, run, tiny()))
    assert (out / "thresholds.json").read_bytes() == (run / "thresholds.json").read_bytes()


def test_divergence_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(line, tmp_path):
    config = tiny("learning_rate=1.0e+30", "epochs=3")
    with pytest.raises(TrainingDiverged, match=r"The loss of step \d+ is nan|that of the best epoch") as caught:
        fit(AESC, config, open_dataset(line), tmp_path / "run", product="line")
    assert "smaller learning_rate" in str(caught.value)
    assert not (tmp_path / "run" / "thresholds.json").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=1"], "was started with seed: 0, and is to go on with seed: 1"),
        (["learning_rate=0.5"], "was started with learning_rate: 0.01"),
    ],
)
def test_resume_refuses_other_settings(run, line, overrides, sentence):
    with pytest.raises(RunError, match=sentence):
        fit(AESC, tiny(*overrides), open_dataset(line), run, product="line", resume=True)


def test_resume_refuses_other_images(run, tmp_path):
    draw_product_line(tmp_path / "other", seed=1, size=64, train=24, test_good=4, defects_per_type=2)
    with pytest.raises(RunError, match="was started on other images"):
        fit(AESC, tiny(), open_dataset(tmp_path / "other"), run, product="line", resume=True)


def test_a_finished_or_foreign_folder_is_not_overwritten(run, line, tmp_path):
    with pytest.raises(RunError, match="holds a run already. Continue it with --resume"):
        fit(AESC, tiny(), open_dataset(line), run, product="line")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and is no run folder"):
        fit(AESC, tiny(), open_dataset(line), tmp_path, product="line")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_split_is_random_fixed_by_the_seed_and_disjoint(line):
    samples = open_dataset(line).train
    split = split_good(samples, 0.2, 0)
    assert split == split_good(samples, 0.2, 0)
    assert split != split_good(samples, 0.2, 1)
    assert len(split.held_out) == 5
    assert {*split.train, *split.held_out} == set(samples)
    with pytest.raises(RunError, match="too few to train on and to hold 4 out"):
        split_good(samples[:7], 0.2, 0)


@pytest.mark.parametrize("name", ["config.yaml", "held_out.npz", "checkpoints"])
def test_an_incomplete_run_folder_says_what_is_missing(run, tmp_path, name):
    for entry in run.iterdir():
        if entry.name != name:
            (tmp_path / entry.name).symlink_to(entry)
    with pytest.raises(RunError, match=f"it has no {name}. Name the --out folder of"):
        open_run(tmp_path)
