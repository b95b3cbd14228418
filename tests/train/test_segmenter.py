"""The segmenter that measures what images with masks are worth: its losses, what it is fed, and a training."""

import json
import subprocess
import sys
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpointed import last_state
from flax import nnx

from train.backbones.layers import Frozen
from train.config import ConfigError, dump_config, find_config, load_config
from train.data.defects import open_defects, split_json
from train.data.samples import DataError
from train.metrics.auroc import rank
from train.metrics.iap import instance_precision
from train.restore import RunError
from train.segmenter import SEGMENTER, SegmenterConfig
from train.segmenter.data import check_leak, load_data, split_normal
from train.segmenter.figures import figures_by_category, figures_of
from train.segmenter.fit import fit_segmenter, mixed_batches
from train.segmenter.loss import focal, l1
from train.segmenter.model import Segmenter
from train.segmenter.system import turned

SIDE = 32
SHAPES = {"spot": (5, 5), "bar": (3, 14)}


def write(root, place, count, seed, shape=None):
    """Grey noise; a defect is a bright rectangle, somewhere."""
    folder = root / place
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        image = generator.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
        if shape is not None:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            top, left = (int(generator.integers(1, SIDE - side)) for side in shape)
            mask[top : top + shape[0], left : left + shape[1]] = 255
            image[mask > 0] = 250
            masks = root / "ground_truth" / folder.name
            masks.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(masks / f"{number:03}_mask.png"), mask)
        cv2.imwrite(str(folder / f"{number:03}.png"), image)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    root = tmp_path_factory.mktemp("product")
    write(root, "train/good", 12, 0)
    write(root, "test/good", 4, 1)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        write(root, f"test/{name}", 7, 10 + seed, shape)
    return root


@pytest.fixture(scope="module")
def defects(product):
    return open_defects(product, defects_per_type=3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """As `synthesize` writes it."""
    root = tmp_path_factory.mktemp("drawn")
    write(root, "test/spot", 5, 50, SHAPES["spot"])
    (root / "synthesis.json").write_text("{}")
    return root


def tiny(*settings):
    return load_config(find_config("segmenter", "tiny"), SegmenterConfig, settings)


@pytest.mark.parametrize(("name", "steps", "size"), [("tiny", 8, 32), ("cpu", 400, 128), ("paper", 5000, 256)])
def test_its_configs(name, steps, size):
    config = load_config(find_config("segmenter", name), SegmenterConfig)
    assert (config.epochs * config.steps_per_epoch, config.image_size) == (steps, size)
    assert config.encoder == ("trained" if name == "tiny" else "resnet18")


def test_a_training_learns_goes_on_and_is_judged_on_held_out_defects_alone(tmp_path, defects, drawn):
    config = tiny("epochs=2", "steps_per_epoch=50", "learning_rate=0.01")
    result = fit_segmenter(config, defects, tmp_path / "run", synthetic=[drawn])
    assert (result.n_normal, result.n_defective, result.n_synthetic) == (11, 6, 5)
    assert (result.n_test_good, result.n_test_defective, result.steps) == (4, 8, 100)
    assert (result.figures.images, result.figures.regions) == (12, 8)
    assert result.figures.ap > 0.9 and result.figures.iap > 0.9
    assert {name: of.images for name, of in result.by_category.items()} == {"bar": 8, "spot": 8}
    assert result.quiet > 0.99
    kept = json.loads((tmp_path / "run/result.json").read_text())
    assert kept["figures"]["iap90"] == result.figures.iap90
    again = fit_segmenter(config, defects, tmp_path / "run", synthetic=[drawn], resume=True)
    assert again == result
    with pytest.raises(RunError, match="was started on other images"):
        fit_segmenter(config, defects, tmp_path / "run", resume=True)


FIT = """
from pathlib import Path
import sys
from train.config import load_config
from train.data.defects import open_defects
from train.segmenter import SegmenterConfig
from train.segmenter.fit import fit_segmenter

settings, product, out = map(Path, sys.argv[1:])
fit_segmenter(load_config(settings, SegmenterConfig), open_defects(product, defects_per_type=3), out)
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path, product, defects):
    """SIGKILL while the first checkpoint is written or just after."""
    config, out, settings = tiny("epochs=4", "steps_per_epoch=10"), tmp_path / "killed", tmp_path / "settings.yaml"
    settings.write_text(dump_config(config))
    process = subprocess.Popen([sys.executable, "-c", FIT, settings, product, out], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((out / "checkpoints").glob("*")):
        time.sleep(0.005)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert not (out / "result.json").exists()
    result = fit_segmenter(config, defects, out, resume=True)
    assert result == fit_segmenter(config, defects, tmp_path / "whole")
    ours, theirs = (last_state(SEGMENTER, folder, config) for folder in (out, tmp_path / "whole"))
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_batch_holds_its_share_of_each_kind():
    config = tiny("batch_size=12", "defect_share=0.5", "synthetic_share=0.34")
    batches = list(mixed_batches(config, (20, 7, 5), 0, 30))
    for batch in batches:
        assert [((batch >= a) & (batch < b)).sum() for a, b in ((0, 20), (20, 27), (27, 32))] == [6, 4, 2]
    assert {int(i) for batch in batches for i in batch} == set(range(32))
    np.testing.assert_array_equal(list(mixed_batches(config, (20, 7, 5), 7, 9)), batches[7:9])  # of a resumed run
    without = np.stack(list(mixed_batches(config, (20, 7, 0), 0, 30)))
    assert ((without >= 20).sum(axis=1) == 6).all() and without.max() == 26
    np.testing.assert_array_equal(without[:, :6], np.stack(batches)[:, :6])  # the same normal images


def test_losses_are_those_of_their_definition():
    logits = jnp.array([[[0.0, 2.0], [-1.0, 3.0]]])
    mask = jnp.array([[[1.0, 1.0], [0.0, 0.0]]])
    p = 1 / (1 + np.exp(-np.array([0.0, 2.0, -1.0, 3.0])))
    right = np.array([p[0], p[1], 1 - p[2], 1 - p[3]])
    np.testing.assert_allclose(focal(logits, mask, 4.0), [np.mean(-((1 - right) ** 4) * np.log(right))], rtol=1e-5)
    np.testing.assert_allclose(l1(logits, mask), [np.mean(1 - right)], rtol=1e-6)
    found = jnp.array([[[-200.0]], [[200.0]]])
    gradient = jax.grad(lambda found: focal(found, jnp.array([[[1.0]], [[0.0]]]), 4.0).sum())(found)
    np.testing.assert_allclose(gradient, [[[-1.0]], [[1.0]]])  # however wrong, a pixel is learned from


def test_a_mask_is_turned_with_its_image():
    image = np.arange(16 * 4 * 4, dtype=np.uint8).reshape(16, 4, 4, 1)
    together = jnp.asarray(np.concatenate([image, image], axis=-1))
    eight = np.asarray(turned(together, jax.random.key(1), quarter_turns=True))
    np.testing.assert_array_equal(eight[..., 0], eight[..., 1])
    ways = []
    for before, after in zip(image[..., 0], eight[..., 0], strict=True):
        rotations = [np.rot90(x, k) for x in (before, before.T) for k in range(4)]
        ways += [number for number, way in enumerate(rotations) if np.array_equal(way, after)]
    assert len(ways) == 16 and len(set(ways)) > 4
    four = np.asarray(turned(together, jax.random.key(1), quarter_turns=False))[..., 0]
    for before, after in zip(image[..., 0], four, strict=True):
        assert any(np.array_equal(way, after) for way in (before, before[::-1], before[:, ::-1], before[::-1, ::-1]))


def test_figures_of_a_category_are_of_its_images_and_the_normal_ones():
    generator = np.random.default_rng(3)
    masks = np.zeros((5, 6, 6), bool)
    masks[1, 1:3, 1:3] = masks[2, 0, 0] = masks[3, 4, :] = True
    maps = generator.random(masks.shape) + masks
    categories = [(), ("dent",), ("dent",), ("cut",), ()]
    found = figures_by_category(maps, masks, categories)
    assert found["dent"] == figures_of(maps[[0, 1, 2, 4]], masks[[0, 1, 2, 4]])
    assert (found["cut"].images, found["cut"].regions) == (3, 1)
    whole = figures_of(maps, masks)
    assert whole.iap == instance_precision(rank(maps, masks), maps, masks).iap
    assert whole.image_auroc == 1.0
    assert figures_of(maps[:1], masks[:1]).iap90 is None


def test_normal_images_that_are_watched_are_not_trained_on(defects):
    normal, watched = split_normal(defects, tiny())
    assert len(watched) == 1 and not {sample.path for sample in normal} & {sample.path for sample in watched}
    assert all(sample.split == "train" for sample in (*normal, *watched))


def test_what_is_refused(tmp_path, product, defects, drawn):
    with pytest.raises(ConfigError, match=r"defect_share is 0.05, so that a batch of 8 holds 0 images with a defect"):
        tiny("defect_share=0.05")
    with pytest.raises(ConfigError, match=r"of a batch's 1 images with a defect 0 are synthetic\. .* larger"):
        fit_segmenter(tiny("batch_size=2"), defects, tmp_path / "run", synthetic=[drawn])
    weights = tmp_path / "none.safetensors"
    with pytest.raises(ConfigError, match=r"none\.safetensors is not there\. .* Or set encoder: trained\."):
        fit_segmenter(tiny("encoder=resnet18", f"backbone_weights={weights}"), defects, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"holds no image with a defect below test/"):
        load_data(tiny(), defects, [write_only_good(tmp_path / "good")])
    with pytest.raises(DataError, match=r"has 12 normal and 14 defective images to train on, and 0 defective ones"):
        load_data(tiny(), open_defects(product, defects_per_type=7), [])


def write_only_good(root):
    write(root, "test/good", 1, 60)
    (root / "synthesis.json").write_text("{}")
    return root


def test_a_generator_that_knows_the_test_images_is_named(tmp_path, product, defects):
    (tmp_path / "split.json").write_text(json.dumps(split_json(defects)))
    check_leak(tmp_path, defects.held_out)
    (tmp_path / "split.json").write_text(json.dumps(split_json(open_defects(product, defects_per_type=5))))
    with pytest.raises(DataError, match=r"its generator was trained on 4 of the images to be tested on"):
        check_leak(tmp_path, defects.held_out)


@pytest.mark.parametrize("encoder", ["trained", "mini", "resnet18"])
def test_a_backbone_is_seen_and_not_trained(encoder):
    model = nnx.eval_shape(lambda: Segmenter(encoder, 8, 64, rngs=nnx.Rngs(0)))
    assert ("frozen" in nnx.state(model, nnx.Param)) is False
    assert ("frozen" in nnx.state(model, Frozen)) is (encoder != "trained")
    assert len(model.down) == (5 if encoder == "trained" else 2)
    graph, weights = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(lambda weights, x: nnx.merge(graph, weights)(x), weights, images).shape == (2, 64, 64)
