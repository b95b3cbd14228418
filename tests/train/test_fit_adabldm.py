"""The whole way of AdaBLDM's training: both phases, a killed run, what a run folder holds, what is refused."""

import json
import os
import shutil
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
import safetensors.numpy
from checkpointed import last_state
from drawn_parts import draw_parts

from train.backbones.errors import WeightsError
from train.checkpoint import Checkpoints
from train.config import ConfigError, dump_config, load_config
from train.data.defects import open_defects
from train.data.samples import DataError
from train.epochs import initial_state
from train.generators import find_generator
from train.generators.fit import fit_generator, with_categories
from train.generators.run import open_generator
from train.memory import OutOfMemory
from train.restore import RunError

ADABLDM = find_generator("adabldm")
TINY = Path("configs/adabldm/tiny.yaml")
EPOCHS, STEPS = 2, 12  # one of the denoiser, one of the trimap encoder
PRODUCT = "grey_part"


def tiny(*overrides: str):
    some = [f"epochs={EPOCHS}", f"domain_epochs={EPOCHS - 1}", f"steps_per_epoch={STEPS}", "average_decay=0.8"]
    return load_config(TINY, ADABLDM.schema, [*some, "learning_rate=0.003", "standardise_latents=true", *overrides])


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "parts"
    return draw_parts(folder, 32, 8, {"good": 2, "bright_spot": 4, "line": 4}, spot=6, line=2)


class Killed(BaseException):
    """What nothing catches."""


def dies(figures, config):
    raise Killed


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory) -> Path:
    """Ended between the phases, and gone on with."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(Killed):
        fit_generator(replace(ADABLDM, watch=dies), tiny(), open_defects(parts), out, product=PRODUCT)
    fit_generator(ADABLDM, tiny(), open_defects(parts), out, product=PRODUCT, resume=True)
    return out


def state_at(out: Path, epoch: int):
    _, like = initial_state(ADABLDM, open_generator(out).config)
    with Checkpoints(out / "checkpoints", ADABLDM.monitor) as checkpoints:
        return checkpoints.restore(epoch * STEPS, like)[0]


def leaves(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def assert_same_bits(ours: Path, theirs: Path) -> None:
    config = open_generator(theirs).config
    states = (last_state(ADABLDM, folder, config) for folder in (ours, theirs))
    for a, b in zip(
        *(jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))) for state in states), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for name in ("split.json", "frozen.safetensors", "defects.npz", f"pictures/epoch_{EPOCHS:04}.png"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert open_generator(ours).figures == open_generator(theirs).figures
    assert open_generator(ours).weights_digest == open_generator(theirs).weights_digest


@pytest.mark.slow
def test_the_denoiser_learns_then_stands_still_while_the_trimap_encoder_learns_from_it(run):
    adapted, trained = state_at(run, EPOCHS - 1), state_at(run, EPOCHS)
    assert set(trained.opt_state) == {"domain", "trimap"}
    start = adapted.average  # what the first phase gave, and what paints
    for name in ("denoiser", "text"):
        np.testing.assert_array_equal(leaves(trained.params[name]), leaves(start[name]))
        np.testing.assert_allclose(leaves(trained.average[name]), leaves(start[name]), atol=1e-6)
    assert np.abs(leaves(adapted.params["denoiser"]) - leaves(start["denoiser"])).max() > 0
    moved = leaves(trained.params["trimap_encoder"]["encoder"]) - leaves(start["denoiser"]["encoder"])
    strayed = leaves(adapted.params["trimap_encoder"]["encoder"]) - leaves(start["denoiser"]["encoder"])
    assert 0 < np.abs(moved).mean() < np.abs(strayed).mean() / 4  # it started there, not where it was drawn
    figures = open_generator(run).figures
    assert [set(epoch) & {"domain_loss", "trimap_loss"} for epoch in figures] == [{"domain_loss"}, {"trimap_loss"}]
    assert figures[0]["domain_loss"] < 0.8  # 1 is a fresh denoiser's
    assert figures[0]["noise_of_normal"] < 0.8
    # A fresh trimap encoder says nothing; the two errors are computed in batches of other sizes, hence the rounding.
    assert figures[0]["share_by_trimap"] == pytest.approx(1.0, abs=2e-7)
    assert abs(figures[1]["share_by_trimap"] - 1) > 1e-5


@pytest.mark.slow
def test_a_run_keeps_all_that_painting_needs(run, parts):
    trained = open_generator(run)
    assert trained.config.object == PRODUCT
    assert trained.config.prompts == (
        "grey part, a grey part",
        "grey part, a grey part with a bright spot",
        "grey part, a grey part with a line",
    )
    assert {name: masks.shape for name, masks in trained.weights.masks.items()} == {
        "bright_spot": (2, 32, 32),
        "line": (2, 32, 32),
    }
    known = json.loads((run / "split.json").read_text())["trained_on"]
    spots = [Path(name) for name in known if "bright_spot" in str(name)]
    masks = [cv2.imread(str(parts / "ground_truth" / "bright_spot" / f"{path.stem}_mask.png"), 0) for path in spots]
    np.testing.assert_array_equal(trained.weights.masks["bright_spot"], np.stack(masks) > 127)
    np.testing.assert_array_equal(
        leaves(trained.weights.denoiser), leaves(last_state(ADABLDM, run, trained.config).average["denoiser"])
    )
    page = (run / "report.html").read_text()
    assert "<h2>What is drawn</h2>" in page
    assert page.count("data:image/png") == EPOCHS
    rows, columns = 4, 6
    assert cv2.imread(str(run / "pictures" / "epoch_0002.png")).shape == (rows * 34 - 2, columns * 34 - 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_killed_run_ends_with_the_same_bits(parts, run, tmp_path, pictures):
    """SIGKILL while a phase's last checkpoint is written or just after."""
    out, settings = tmp_path / "run", tmp_path / "settings.yaml"
    settings.write_text(dump_config(tiny()))
    command = [sys.executable, "-m", "train", "fit-generator", "adabldm", "--product", PRODUCT]
    command += ["--data", str(parts), "--out", str(out), "--config", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    while process.poll() is None and not (out / "pictures" / f"epoch_{pictures:04}.png").exists():
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    fit_generator(ADABLDM, tiny(), open_defects(parts), out, product=PRODUCT, resume=True)
    assert_same_bits(out, run)


@pytest.mark.slow
def test_a_run_is_not_gone_on_with_by_other_settings(run, parts):
    for settings, said in (
        (["foreground=predict", "backbone=mini"], "was started with foreground: texture"),
        (["categories=[line]"], "was started with categories: "),
    ):
        with pytest.raises(RunError, match=said):
            fit_generator(ADABLDM, tiny(*settings), open_defects(parts), run, product=PRODUCT, resume=True)
    with pytest.raises(RunError, match="holds a run already"):
        fit_generator(ADABLDM, tiny("text=labels"), open_defects(parts), run, product=PRODUCT)


@pytest.mark.slow
def test_a_folder_that_was_changed_is_refused(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "defects.npz").write_bytes(b"")
    with pytest.raises(RunError, match="defects.npz is missing or was changed after the run was started"):
        open_generator(out)


def written(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["size=small", "image_size=128"], Exception, "Size small works on the latents of a published autoencoder"),
        (
            [
                "size=small",
                "image_size=128",
                "foreground=predict",
                "backbone=resnet18",
                "backbone_weights=no.safetensors",
            ],
            WeightsError,
            r"(?s)Size small works on the latents .*no\.safetensors",
        ),
        (["prompt='" + "very " * 20 + "{defect}'"], ConfigError, "has 22 tokens; at most 16 are read. Shorten it."),
        (["text=clip", "merges=nowhere.txt"], ConfigError, "nowhere.txt can't be read as a list of CLIP's merges"),
        (["text=clip"], ConfigError, "set merges"),
        (["categories=[dent]"], ConfigError, "has no defects called dent"),
    ],
)
def test_what_is_missing_or_too_long_is_a_sentence_and_nothing_is_written(parts, tmp_path, overrides, error, said):
    with pytest.raises(error, match=said):
        fit_generator(ADABLDM, tiny(*overrides), open_defects(parts), tmp_path / "run", product=PRODUCT)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_layout_are_refused_by_their_key(parts, tmp_path):
    path = written(tmp_path, {"stem.conv.weight": np.ones((3, 3), np.float32)})
    with pytest.raises(Exception, match="its first key is stem.conv.weight, and none of its keys is known"):
        config = tiny(f"autoencoder_weights={path}")
        fit_generator(ADABLDM, config, open_defects(parts), tmp_path / "run", product=PRODUCT)
    assert not (tmp_path / "run").exists()


def test_a_defect_without_a_mask_is_named(parts, tmp_path):
    folder = tmp_path / "parts"
    shutil.copytree(parts, folder)
    (folder / "ground_truth" / "line" / "001_mask.png").unlink()
    with pytest.raises(DataError, match=r"8 defective images to learn from, but 7 masks: .*001.png has none"):
        defects = open_defects(folder, defects_per_type=4)
        fit_generator(ADABLDM, tiny(), defects, tmp_path / "run", product=PRODUCT)
    assert not (tmp_path / "run").exists()


def test_a_device_with_too_little_memory_is_known_beforehand(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("train.generators.fit.device_memory", lambda: 20_000_000)
    with pytest.raises(OutOfMemory, match=r"This one has 0.02 GB. Set a smaller batch_size, more micro_batches"):
        fit_generator(ADABLDM, tiny(), open_defects(parts), tmp_path / "run", product=PRODUCT)
    assert not (tmp_path / "run").exists()


def test_categories_and_the_name_of_the_part_are_the_datas(parts):
    config = ADABLDM.settled(with_categories(tiny("object=valve"), open_defects(parts)), PRODUCT)
    assert config.object == "valve"
    assert config.prompts[-1] == "valve, a valve with a line"
