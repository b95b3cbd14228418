"""FastFlow through the training loop: where features are kept changes nothing, a killed run loses nothing."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from checkpointed import last_state
from flax import nnx

from train.backbones.pretrained import random_weights, save_backbone
from train.backbones.registry import find_backbone
from train.checkpoint import Checkpoints
from train.config import ConfigError, find_config, load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors import find_detector
from train.detectors.fastflow.coupling import Permutation
from train.epochs import initial_state, training_steps
from train.fit import fit
from train.inputs import training_inputs
from train.run import RunError, open_run, preprocessing_of, read_held_out

FASTFLOW = find_detector("fastflow")


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=64, train=20, test_good=3, defects_per_type=1)
    return folder


def tiny(*overrides: str):
    settings = ["normalisation=whiten", "feature_noise=0.1", "average_decay=0.5", "top_share=0.01", *overrides]
    return load_config(find_config("fastflow", "tiny"), FASTFLOW.schema, settings)


@pytest.fixture(scope="module")
def run(line, tmp_path_factory) -> Path:
    """A finished tiny run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(FASTFLOW, tiny(), open_dataset(line), out, product="line")
    return out


def leaves(state) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def test_a_run_needs_the_users_weights_no_more(run):
    provenance = json.loads((run / "provenance.json").read_text())
    assert len(provenance["backbone_sha256"]) == 64
    assert (run / "backbone.safetensors").exists()
    trained = open_run(run)
    scores, maps = trained.score_batch(read_held_out(trained)[0])
    assert scores.min() > 0
    assert maps.max() <= 1
    assert trained.step == 8  # the last one


def test_what_the_flow_needs_is_in_its_checkpoint(run):
    """The permutations and the whitening are no parameters; without them a checkpoint would be another network."""
    restored, (_, fresh) = last_state(FASTFLOW, run, tiny()), initial_state(FASTFLOW, tiny("seed=1"))

    def permutations(state):
        return list(jax.tree.leaves(nnx.filter_state(state.rest, Permutation)))

    assert len(permutations(restored)) == 6  # two steps of three scales
    assert any(not np.array_equal(a, b) for a, b in zip(permutations(restored), permutations(fresh), strict=True))
    whitened = [np.asarray(x) for x in jax.tree.leaves(restored.rest) if x.ndim == 2]
    assert len(whitened) == 3
    assert all(not np.allclose(matrix, np.eye(len(matrix))) for matrix in whitened)


def test_resumed_from_a_checkpoint_the_run_is_the_same(line, run, tmp_path):
    """As if it had been killed after its first epoch; SIGKILL itself is tested with AESc, whose loop this is."""
    out = tmp_path / "run"
    fit(FASTFLOW, tiny(), open_dataset(line), out, product="line", keep_all=True)
    with Checkpoints(out / "checkpoints", FASTFLOW.monitor, keep_all=True) as checkpoints:
        assert checkpoints.steps == [4, 8]
        checkpoints._manager.delete(8)
    (out / "thresholds.json").unlink()
    fit(FASTFLOW, tiny(), open_dataset(line), out, product="line", resume=True)
    for ours, theirs in zip(
        leaves(last_state(FASTFLOW, out, tiny())), leaves(last_state(FASTFLOW, run, tiny())), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("limit", "kept"), [(4096, "features"), (1, "images"), (0, "nothing")])
def test_where_inputs_are_kept_does_not_change_a_step(line, limit, kept):
    samples = open_dataset(line).train
    results = []
    for megabytes in (4096, limit):
        config = tiny(f"resident_limit_mb={megabytes}")
        frozen = FASTFLOW.frozen.load(config)
        inputs = training_inputs(FASTFLOW, config, frozen, samples, preprocessing_of(config))
        graph, state = initial_state(FASTFLOW, config)
        batch = np.stack(list(inputs.batches(0, 1)))
        state, metrics = training_steps(FASTFLOW, config, graph, inputs)(state, batch, inputs.resident)
        results.append((float(metrics["loss"][0]), state))
    assert (batch.dtype == np.uint8) == (kept == "nothing")  # images themselves instead of indices
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)


def test_micro_batches_give_the_gradient_of_the_whole_batch(line):
    samples = open_dataset(line).train
    updated = []
    for size in (4, 2):
        config = tiny("feature_noise=0", f"micro_batch={size}")
        inputs = training_inputs(FASTFLOW, config, FASTFLOW.frozen.load(config), samples, preprocessing_of(config))
        graph, state = initial_state(FASTFLOW, config)
        assert FASTFLOW.micro_batches(config) == 4 // size
        state, metrics = training_steps(FASTFLOW, config, graph, inputs)(
            state, np.stack(list(inputs.batches(0, 1))), inputs.resident
        )
        updated.append((float(metrics["loss"][0]), jax.tree.leaves(state.opt_state[1].mu)))
    assert updated[0][0] == pytest.approx(updated[1][0], rel=1e-5)
    for whole, parts in zip(updated[0][1], updated[1][1], strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-3, atol=1e-3 * float(np.abs(whole).max()))


def test_the_moving_average_scores(run):
    state = last_state(FASTFLOW, run, tiny())
    assert state.scoring_params is state.average
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.average), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


def test_an_epoch_of_one_pass_is_resolved(line, tmp_path):
    fit(FASTFLOW, tiny("steps_per_epoch=0", "epochs=1"), open_dataset(line), tmp_path / "run", product="line")
    assert load_config(tmp_path / "run" / "config.yaml", FASTFLOW.schema).steps_per_epoch == 4  # 16 images, 4 at once


def test_too_few_images_for_a_batch_are_answered(line, tmp_path):
    config = tiny("steps_per_epoch=0", "batch_size=32")
    with pytest.raises(RunError, match="16 training images don't fill a batch of 32.*smaller batch_size"):
        fit(FASTFLOW, config, open_dataset(line), tmp_path / "run", product="line")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_leave_no_run_folder(line, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    safetensors.numpy.save_file({"head.weight": np.zeros((2, 2), np.float32)}, wrong)
    config = load_config(
        find_config("fastflow", "cpu"), FASTFLOW.schema, [f"backbone_weights={wrong}", "batch_size=4", "image_size=64"]
    )
    with pytest.raises(ConfigError, match="wrong.safetensors"):
        fit(FASTFLOW, config, open_dataset(line), tmp_path / "run", product="line")
    assert not (tmp_path / "run").exists()


def test_a_damaged_backbone_in_the_run_folder_is_named(run, tmp_path):
    damaged = tmp_path / "run"
    damaged.mkdir()
    for file in run.iterdir():
        (damaged / file.name).symlink_to(file.absolute())
    (damaged / "backbone.safetensors").unlink()
    (damaged / "backbone.safetensors").write_bytes((run / "backbone.safetensors").read_bytes()[:-100])
    with pytest.raises(RunError, match=r"backbone\.safetensors"):
        open_run(damaged)


def test_a_backbone_of_another_kind_in_the_run_folder_is_named(run, tmp_path):
    mixed = tmp_path / "run"
    mixed.mkdir()
    for file in run.iterdir():
        (mixed / file.name).symlink_to(file.absolute())
    (mixed / "backbone.safetensors").unlink()
    save_backbone(mixed / "backbone.safetensors", random_weights(find_backbone("resnet18"), 64, 0))
    with pytest.raises(RunError, match=r"backbone\.safetensors"):
        open_run(mixed)
