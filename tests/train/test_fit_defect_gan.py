"""The whole way of Defect-GAN: a killed run, what a run folder holds, what it paints, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from checkpointed import last_state
from drawn_parts import draw_parts

from train.checkpoint import Checkpoints, has_checkpoint
from train.config import ConfigError, config_digest, dump_config, load_config
from train.data.defects import open_defects
from train.data.samples import DataError
from train.generators import find_generator
from train.generators.fit import fit_generator, with_categories
from train.generators.run import open_generator
from train.run import RunError

DEFECT_GAN = find_generator("defect_gan")
TINY = Path("configs/defect_gan/tiny.yaml")


def tiny(*overrides: str):
    """As few blocks as there can be: the step is compiled here and in a process of its own."""
    return load_config(TINY, DEFECT_GAN.schema, ["residual_blocks=0", "critic_steps=1", *overrides])


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "parts"
    return draw_parts(folder, 16, 10, {"good": 2, "spot": 6, "line": 6}, spot=3, line=1)


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit_generator(DEFECT_GAN, tiny(), open_defects(parts), out, product="parts")
    return out


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(parts, run, tmp_path):
    """SIGKILL while the first checkpoint is written or just after: networks, averages, optimizers, pictures, page."""
    out, settings = tmp_path / "run", tmp_path / "settings.yaml"
    settings.write_text(dump_config(tiny()))
    command = [sys.executable, "-m", "train", "fit-generator", "defect_gan", "--product", "parts"]
    command += ["--data", str(parts), "--out", str(out), "--config", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    while process.poll() is None and not list((out / "checkpoints").glob("*")):
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    fit_generator(DEFECT_GAN, tiny(), open_defects(parts), out, product="parts", resume=True)
    config = open_generator(run).config
    ours, theirs = (last_state(DEFECT_GAN, folder, config) for folder in (out, run))
    assert set(ours.opt_state) == {"critic", "generator"}
    assert set(ours.average) == {"generator"}
    for a, b in zip(
        *(jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))) for state in (ours, theirs)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for name in ("split.json", "pictures/epoch_0002.png"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    assert open_generator(out).figures == open_generator(run).figures
    assert open_generator(out).weights_digest == open_generator(run).weights_digest


def test_a_run_keeps_what_it_learned_from_and_shows_what_it_draws(run, parts):
    trained = open_generator(run)
    assert trained.categories == ("line", "spot")
    assert has_checkpoint(run / "checkpoints")
    assert trained.config.exclusive is True
    assert json.loads((run / "provenance.json").read_text())["config_digest"] == config_digest(trained.config)
    split = json.loads((run / "split.json").read_text())
    assert len(split["trained_on"]) == 10 + 3 + 3
    assert {"mask_defect", "mask_restored", "critic_loss", "generator_loss", "closeness"} <= set(trained.figures[1])
    sheet = cv2.imread(str(run / "pictures" / "epoch_0002.png"))
    assert sheet.shape == (2 * 16 + 2, 12 * 16 + 11 * 2, 3)  # two categories, three times four images
    page = (run / "report.html").read_text()
    assert "<h2>What is drawn</h2>" in page
    assert page.count("data:image/png") == 2
    with Checkpoints(run / "checkpoints", DEFECT_GAN.monitor) as checkpoints:
        assert checkpoints.steps == [2, 4]


def test_what_is_painted_is_the_averages_work_and_the_seeds(run, parts):
    trained = open_generator(run)
    state = last_state(DEFECT_GAN, run, trained.config)
    averaged, latest = (tree["generator"]["foreground"]["kernel"][...] for tree in (state.average, state.params))
    np.testing.assert_array_equal(trained.weights.foreground.kernel[...], averaged)
    assert np.abs(averaged - latest).max() > 0
    images = np.stack([cv2.imread(str(parts / "train" / "good" / f"{n:03}.png")) for n in range(3)])
    control = np.asarray(trained.normal_control(3))[..., [2, 1, 0]]  # lines, everywhere
    keys = jax.random.split(jax.random.key(5), 3)
    drawn, mask = trained.paint_batch(images, control, keys)
    again, _ = trained.paint_batch(images, control, keys)
    np.testing.assert_array_equal(drawn, again)
    outside = mask < 0.01
    assert np.abs(drawn.astype(int) - images)[outside].max(initial=0) <= 1
    assert (mask >= 0).all() and (mask <= 1).all() and mask.max() > 0.01
    restored, _ = trained.paint_batch(images, trained.normal_control(3), keys)
    assert np.abs(restored.astype(int) - drawn).max() > 0
    assert jax.eval_shape(trained.restore, jax.numpy.asarray(images), keys).mask.shape == (3, 16, 16)
    noise = trained.noise(keys)
    assert noise.shape == (3, trained.config.noise_numbers)
    np.testing.assert_array_equal(trained.noise(keys[1:])[0], noise[1])
    untrained = open_generator(run, step=0)
    assert untrained.step == 0
    assert untrained.weights_digest != trained.weights_digest
    with pytest.raises(RunError, match="has no checkpoint of step 3. It has those of 2, 4"):
        open_generator(run, step=3)


def test_another_setting_or_another_split_cannot_be_resumed(run, parts):
    with pytest.raises(RunError, match="was started with w_mask_size: 1.0, and is to go on with w_mask_size: 2.0"):
        fit_generator(DEFECT_GAN, tiny("w_mask_size=2"), open_defects(parts), run, product="parts", resume=True)
    other = open_defects(parts, defects_per_type=2)
    with pytest.raises(RunError, match="was started on other images"):
        fit_generator(DEFECT_GAN, tiny(), other, run, product="parts", resume=True)


def test_data_that_teaches_nothing_is_a_sentence(parts, tmp_path):
    defects = open_defects(parts)
    with pytest.raises(ConfigError, match="has no defects called spots. Did you mean spot"):
        with_categories(tiny("categories=[spots]"), defects)
    without = replace(defects, samples=tuple(s for s in defects.samples if "line" not in s.categories))
    with pytest.raises(DataError, match="has no training image of line: nothing can be learned of it"):
        with_categories(tiny(), without)
    assert with_categories(tiny("categories=[spot]"), without).control_channels == 2
    bare = replace(defects, samples=tuple(s for s in defects.samples if s.categories))
    with pytest.raises(DataError, match="has 0 normal images to train on; a generator needs at least 2"):
        fit_generator(DEFECT_GAN, tiny(), bare, tmp_path / "run", product="parts")
    with pytest.raises(ConfigError, match="16 images of 16 px take 0 MB, more than resident_limit_mb: 0"):
        fit_generator(DEFECT_GAN, tiny("resident_limit_mb=0"), defects, tmp_path / "run", product="parts")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="exclusive is set, but images in .* show several categories"):
        with_categories(tiny("exclusive=true"), replace(defects, exclusive=False))
    with pytest.raises(RunError, match="is not the run folder of a generator: it has no config.yaml"):
        open_generator(tmp_path)
