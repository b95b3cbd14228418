"""A mask of what is judged: how it is read and refused, and that what it excludes counts nowhere."""

import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from edge_agent.preprocess import Preprocessing, prepare_mask
from train.config import ConfigError, find_config, load_config
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.detectors.fastflow import FASTFLOW, Inputs, judged_cells
from train.detectors.fastflow.loss import negative_log_likelihood
from train.detectors.fastflow.model import FastFlow, Latent
from train.detectors.fastflow.normalisation import Normalise
from train.detectors.fastflow.score import raw_scores
from train.epochs import initial_state, training_steps
from train.fit import fit, split_good
from train.inputs import training_inputs
from train.mask import load_mask
from train.run import RunError, open_run, preprocessing_of, read_held_out

RNG = np.random.default_rng(0)


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def white(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Black, but for boxes (top, left, bottom, right)."""
    image = np.zeros((height, width), np.uint8)
    for top, left, bottom, right in boxes:
        image[top:bottom, left:right] = 255
    return image


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=64, train=20, test_good=2, defects_per_type=1)
    return folder


@pytest.fixture(scope="module")
def left_half(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("masks") / "left.png", white(64, 64, (0, 0, 64, 32)))


def tiny(*overrides: str):
    settings = ["normalisation=whiten", "top_share=0.01", "epochs=1", *overrides]
    return load_config(find_config("fastflow", "tiny"), FASTFLOW.schema, settings)


# --- reading


def test_it_is_cropped_and_resized_as_the_images_are(line, tmp_path):
    image = white(64, 64, (0, 0, 36, 40))
    preprocessing = Preprocessing(width=32, height=32, crop=(8, 4, 48, 48))
    found = load_mask(write(tmp_path / "m.png", image), preprocessing, open_dataset(line).train, cell=4)
    np.testing.assert_array_equal(found, prepare_mask(image > 0, preprocessing))
    assert found.shape == (32, 32)
    assert found.mean() == pytest.approx((32 / 48) ** 2, abs=0.05)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            white(64, 64),
            "which is black everywhere: nothing is left to judge. A mask is an image as large as",
        ),
        (
            white(64, 64, (0, 0, 9, 9)),
            "leaves 81 of 4096 pixels at model size to judge, less than one cell of 16 x 16",
        ),
        (white(32, 48, (0, 0, 30, 30)), "with 48 x 32 pixels, but "),
        (white(64, 64, (0, 0, 30, 30)) // 255, "mask can't be read: "),
    ],
)
def test_a_mask_that_cannot_serve_is_refused_before_anything_is_written(line, tmp_path, image, text):
    path = write(tmp_path / "roi.png", image)
    with pytest.raises(ConfigError) as caught:
        fit(FASTFLOW, tiny(f"mask={path}"), open_dataset(line), tmp_path / "run", product="line")
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_black_inside_the_crop_is_said(line, tmp_path):
    path = write(tmp_path / "roi.png", white(64, 64, (0, 0, 64, 16)))
    with pytest.raises(ConfigError, match=r"roi\.png, which is black everywhere inside the crop"):
        load_mask(path, preprocessing_of(tiny("crop=[32,0,32,64]")), open_dataset(line).train, cell=16)


def test_a_file_that_is_no_image_is_named(line, tmp_path):
    (tmp_path / "roi.png").write_text("white")
    for path in (tmp_path / "roi.png", tmp_path / "none.png"):
        with pytest.raises(ConfigError, match=rf"mask can't be read: .*{path.name}"):
            load_mask(path, preprocessing_of(tiny()), open_dataset(line).train, cell=16)


# --- what counts


def test_a_cell_counts_if_any_of_its_pixels_does():
    mask = white(32, 32, (0, 0, 8, 8), (18, 31, 19, 32)) > 0
    fine, middle, coarse = judged_cells(jnp.asarray(mask)[None], tiny())  # strides 4, 8, 16
    assert np.argwhere(fine[0]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [4, 7]]
    np.testing.assert_array_equal(middle[0], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(coarse[0], [[1, 0], [0, 1]])


def test_the_loss_is_of_judged_cells_alone():
    z, log_det = RNG.normal(size=(2, 4, 4, 6)), RNG.normal(size=(2, 4, 4))
    judged = RNG.random((2, 4, 4)) < 0.5
    cells = 0.5 * (z**2).sum(-1) - log_det
    expected = [cells[image][judged[image]].sum() for image in range(2)]
    z[~judged], log_det[~judged] = 1e6, 1e6
    latent = Latent(jnp.asarray(z, jnp.float32), jnp.asarray(log_det, jnp.float32))
    np.testing.assert_allclose(negative_log_likelihood(latent, jnp.asarray(judged)), expected, rtol=1e-5)


def test_statistics_are_of_judged_cells_alone():
    features = RNG.normal(size=(3, 8, 8, 4)).astype(np.float32) @ RNG.normal(size=(4, 4)).astype(np.float32)
    judged = np.zeros((3, 8, 8), bool)
    judged[:, 2:6, 1:7] = True
    cells = features[judged]
    features[~judged] = 1e3

    model = FastFlow([(8, 8, 4)], tiny("flow_steps=1"), rngs=nnx.Rngs(0))
    batches = [Inputs((jnp.asarray(x)[None],), (jnp.asarray(y)[None],)) for x, y in zip(features, judged, strict=True)]
    FASTFLOW.measure(model, lambda: iter(batches))
    np.testing.assert_allclose(model.normalise[0].mean[...], cells.mean(0), atol=1e-5)
    whitened = np.asarray(model.normalise[0](jnp.asarray(cells)[None, None]))[0, 0]
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(4), atol=0.05)
    normalised = Normalise("layer_norm", (8, 8, 4))(jnp.asarray(features), jnp.asarray(judged))
    np.testing.assert_allclose(np.asarray(normalised)[judged].reshape(3, -1).std(axis=1), 1, atol=1e-4)


def test_the_likelihood_is_per_judged_dimension():
    model = FastFlow([(8, 8, 4)], tiny("flow_steps=1", "normalisation=none"), rngs=nnx.Rngs(0))
    features = (jnp.asarray(RNG.normal(size=(2, 8, 8, 4)), jnp.float32),)
    judged = (jnp.asarray(RNG.random((2, 8, 8)) < 0.4),)
    found = FASTFLOW.validate(model, Inputs(features, judged), jax.random.key(0), tiny())["log_likelihood"]
    nats = negative_log_likelihood(model(features)[0], judged[0])
    np.testing.assert_allclose(found, -nats / (4 * judged[0].sum(axis=(1, 2))), rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_scores_are_of_judged_pixels_alone(share):
    z = RNG.normal(size=(2, 8, 8, 6)).astype(np.float32)
    mask = white(32, 32, (0, 0, 20, 16)) > 0
    z[:, 4:, 6:] = 100  # outside, and worse than anything inside
    latents = [Latent(jnp.asarray(z), jnp.zeros((2, 8, 8)))]
    unmasked = np.asarray(raw_scores(latents, 32, log_det_weight=0.0, top_share=share).anomaly_map)
    scores = raw_scores(latents, 32, log_det_weight=0.0, top_share=share, judged=mask)
    np.testing.assert_array_equal(scores.anomaly_map, np.where(mask, unmasked, 0))
    highest = np.sort(unmasked[:, mask], axis=1)[:, ::-1][:, : max(round(share * 320), 1)]
    np.testing.assert_allclose(scores.image_score, highest.mean(axis=1), rtol=1e-6)
    assert unmasked.max() == 1
    assert (np.asarray(scores.image_score) < 0.9).all()


def judged_features(inputs):
    """Of each scale the judged features of all training inputs."""
    every = list(inputs.all())
    return [
        [x.features[s] if x.judged is None else x.features[s][x.judged[s]] for x in every]
        for s in range(len(every[0].features))
    ]


# --- a run


@pytest.fixture(scope="module")
def run(line, left_half, tmp_path_factory) -> Path:
    """A finished tiny run that judges the left half."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(FASTFLOW, tiny(f"mask={left_half}"), open_dataset(line), out, product="line")
    return out


def test_a_run_needs_the_users_mask_no_more(run):
    trained = open_run(run)
    np.testing.assert_array_equal(trained.mask, white(64, 64, (0, 0, 64, 32)) > 0)
    images, _ = read_held_out(trained)
    scores, maps = trained.score_batch(images)
    assert (maps[:, :, 32:] == 0).all()
    assert (maps[:, :, :32] > 0).all()
    top = np.sort(maps[:, :, :32].reshape(len(maps), -1), axis=1)[:, -round(0.01 * 2048) :]
    np.testing.assert_allclose(scores, top.mean(axis=1), rtol=1e-5)
    judged = np.sort(maps[:, :, :32].ravel())
    assert trained.thresholds.pixel == pytest.approx(judged[int(np.ceil(0.999 * judged.size)) - 1])
    assert "50.0% of the image is judged" in trained.score_definition
    assert "\nmask:" not in (run / "config.yaml").read_text()  # a path of this machine


def test_its_training_saw_judged_cells_alone(line, run):
    trained = open_run(run)
    samples = split_good(open_dataset(line).train, trained.config.validation_fraction, trained.config.seed).train
    inputs = training_inputs(
        FASTFLOW, trained.config, trained.weights.backbone, samples, trained.preprocessing, trained.mask
    )
    for normalise, cells in zip(trained.weights.flow.normalise, judged_features(inputs), strict=True):
        np.testing.assert_allclose(normalise.mean[...], np.concatenate(cells).mean(axis=0), rtol=1e-3, atol=1e-5)


def test_resumed_with_another_mask_is_refused(line, run, left_half, tmp_path):
    data = open_dataset(line)
    before = (run / "thresholds.json").read_bytes()
    other = write(tmp_path / "other.png", white(64, 64, (0, 0, 64, 40)))
    with pytest.raises(RunError, match="was started with another mask. Resume without --set mask"):
        fit(FASTFLOW, tiny(f"mask={other}"), data, run, product="line", resume=True)
    for settings in ([], [f"mask={left_half}"]):
        fit(FASTFLOW, tiny(*settings), data, run, product="line", resume=True)
        assert (run / "thresholds.json").read_bytes() == before


def test_a_mask_cannot_be_given_to_a_run_that_began_without(line, left_half, tmp_path):
    data, out = open_dataset(line), tmp_path / "run"
    fit(FASTFLOW, tiny(), data, out, product="line")
    assert open_run(out).mask is None
    with pytest.raises(RunError, match="was started with no mask"):
        fit(FASTFLOW, tiny(f"mask={left_half}"), data, out, product="line", resume=True)
    with pytest.raises(RunError, match="--set mask: that was fixed when"):
        open_run(out, [f"mask={left_half}"])


def test_a_mask_that_was_lost_or_changed_is_said(run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).symlink_to(file.absolute())
    (copy / "mask.png").unlink()
    with pytest.raises(RunError, match=r"mask\.png is missing or was changed"):
        open_run(copy)
    write(copy / "mask.png", white(64, 64, (0, 0, 64, 64)))
    with pytest.raises(RunError, match=r"mask\.png is missing or was changed"):
        open_run(copy)
    assert len(json.loads((run / "provenance.json").read_text())["mask_sha256"]) == 64


# --- with tiles, wherever inputs are kept


def step_of(line, mask, *settings):
    """Loss and gradient of one step, and the dtype of its batch."""
    config = tiny(*settings)
    inputs = training_inputs(
        FASTFLOW, config, FASTFLOW.frozen.load(config), open_dataset(line).train, preprocessing_of(config), mask
    )
    graph, state = initial_state(FASTFLOW, config)
    batch = np.stack(list(inputs.batches(0, 1)))
    state, metrics = training_steps(FASTFLOW, config, graph, inputs)(state, batch, inputs.resident)
    moments = [sum(np.asarray(part[..., 0]).sum() for part in scale) for scale in judged_features(inputs)]
    return float(metrics["loss"][0]), batch, moments


@pytest.mark.parametrize(
    ("limit", "dtype"), [(2, np.int32), (1, np.int32), (0, np.uint8)], ids=["features", "images", "nothing"]
)
def test_where_tiles_are_kept_does_not_change_a_step(line, limit, dtype):
    """20 images of 96 px take .5 MB, the features of their 5 tiles with a judged pixel 1.4 MB."""
    mask = white(96, 96, (0, 0, 40, 40), (70, 70, 90, 90)) > 0
    settings = ["image_size=96", "tile=48", "tile_overlap=16", "feature_noise=0"]
    loss, batch, moments = step_of(line, mask, *settings, f"resident_limit_mb={limit}")
    reference, _, expected = step_of(line, mask, *settings)
    assert batch.dtype == dtype
    if limit == 0:
        assert batch.shape[2:] == (48, 48, 4)
    assert loss == pytest.approx(reference, rel=1e-5)
    np.testing.assert_allclose(moments, expected, rtol=1e-4)


def test_a_mask_that_excludes_nothing_changes_nothing(line):
    loss, _, moments = step_of(line, np.ones((64, 64), bool))
    plain, _, expected = step_of(line, None)
    assert loss == pytest.approx(plain, rel=1e-6)
    np.testing.assert_allclose(moments, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_run_with_tiles_and_a_mask(line, tmp_path):
    path = write(tmp_path / "roi.png", white(64, 64, (0, 0, 30, 64)))
    out = tmp_path / "run"
    settings = ["image_size=96", "tile=48", "tile_overlap=16", "steps_per_epoch=0", f"mask={path}"]
    fit(FASTFLOW, tiny(*settings), open_dataset(line), out, product="line")
    config = load_config(out / "config.yaml", FASTFLOW.schema)
    assert config.steps_per_epoch == 16 * 6 // 4  # 16 images, two of three rows of tiles have judged pixels
    trained = open_run(out)
    images, _ = read_held_out(trained)
    scores, maps = trained.score_batch(images)
    judged = np.asarray(trained.mask)
    assert (maps[:, ~judged] == 0).all()
    assert (maps[:, judged] > 0).all()
    at_once = trained.score(jnp.asarray(images))
    np.testing.assert_allclose(at_once.image_score, scores, rtol=1e-4)
    assert "tiles of 48 px" in trained.score_definition
    assert jax.tree.leaves(at_once)[1].shape == (4, 96, 96)
