"""Detectors with generated defects: the threshold between them and good images, and AESc trained with them."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer.testing

from train.__main__ import app
from train.config import ConfigError, config_digest, find_config, load_config
from train.data.defect_bank import open_bank, paste_defects
from train.data.draw import draw_product_line
from train.data.folder import open_dataset
from train.data.samples import DataError
from train.defect_threshold import image_threshold, refit
from train.detectors import find_detector
from train.detectors.aesc import corrupted
from train.fit import fit
from train.fit_threshold import ThresholdError
from train.run import open_run

AESC = find_detector("aesc")
SIDE = 64
SHORT = ("filters=2", "epochs=2", "steps_per_epoch=4", "batch_size=4", "validation_samples=4")


def tiny(*overrides):
    return load_config(find_config("aesc", "tiny"), AESC.schema, [*SHORT, *overrides])


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=SIDE, train=24, test_good=4, defects_per_type=2)
    return folder


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory):
    """White squares on black, as `synthesize` lays them out: one with a soft mask, one with a binary one alone."""
    folder = tmp_path_factory.mktemp("synthesised")
    for sub in ("test/dent", "soft_masks/dent", "ground_truth/dent"):
        (folder / sub).mkdir(parents=True)
    for number in range(5):
        image, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        image[8:24, 8:24], mask[8:24, 8:24] = 255, 255
        cv2.imwrite(str(folder / f"test/dent/{number:06}.png"), image)
        cv2.imwrite(str(folder / f"ground_truth/dent/{number:06}_mask.png"), mask)
        if number:
            cv2.imwrite(str(folder / f"soft_masks/dent/{number:06}.png"), mask // 2)
    (folder / "synthesis.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def run(line, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(AESC, tiny(), open_dataset(line), out, product="line")
    return out


def test_the_threshold_is_a_good_score_with_the_smallest_mean_of_both_rates():
    good, bad = np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), np.array([4.5, 6.5, 9, 10])
    costs = {t: (good > t).mean() + (bad <= t).mean() for t in good}
    image, rule, position = image_threshold(good, bad)
    assert costs[image] == min(costs.values()) and image == max(t for t in good if costs[t] == min(costs.values()))
    assert position == (good <= image).sum()
    assert "4 generated defects" in rule and "No real defect was seen" in rule
    assert image_threshold(good, bad + 100)[0] == 8  # apart: no good image rejected, none let through
    with pytest.raises(ThresholdError, match="not finite"):
        image_threshold(good, np.array([np.nan]))
    with pytest.raises(ThresholdError, match="score 0"):
        image_threshold(np.zeros(3), bad)


def test_a_run_gets_its_threshold_from_generated_defects_and_back(run, synthesised):
    before = json.loads((run / "thresholds.json").read_text())
    result = typer.testing.CliRunner().invoke(app, ["threshold", str(run), "--defects", str(synthesised), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["n_generated_defects"] == 5  # neither masks nor what they were painted on
    assert found["auroc_on_generated_defects"] == 1.0  # white squares on black are no parts of the line
    after = open_run(run).thresholds
    assert after.image == found["thresholds"]["image"] and after.pixel == before["pixel"]
    assert "generated defects" in after.rule and "pixel threshold" in after.rule
    assert refit(run, None).thresholds.model_dump(mode="json") == before
    assert json.loads((run / "thresholds.json").read_text()) == before


def test_pasted_defects_leave_the_rest_of_the_image_as_it_was(synthesised):
    bank = open_bank(synthesised, SIDE)
    assert bank.images.shape == (5, SIDE, SIDE, 3) and sorted({int(m.max()) for m in bank.masks}) == [127, 255]
    clean = jnp.full((8, SIDE, SIDE, 3), 102 / 255)
    masks = jnp.asarray(bank.masks, jnp.float32) / 255
    pasted = paste_defects(jax.random.key(0), clean, jnp.asarray(bank.images, jnp.float32) / 255, masks)
    outside = np.ones((SIDE, SIDE), bool)
    outside[8:24, 8:24] = False
    np.testing.assert_allclose(pasted[:, outside], clean[:, outside], atol=1e-6)
    inside = {round(float(value) * 255) for value in np.unique(pasted[:, ~outside])}
    assert inside == {round(102 + (255 - 102) * 127 / 255), 255}


@pytest.mark.slow
def test_aesc_trains_on_its_share_of_generated_defects(line, synthesised, tmp_path):
    without, half = tiny(), tiny(f"defects={synthesised}", "defects_share=0.5")
    assert config_digest(tiny("defects_share=0")) == config_digest(without) != config_digest(half)
    images = jnp.full((32, SIDE, SIDE, 3), 102 / 255)
    noise_only = corrupted(jax.random.key(1), images, without)
    mixed = corrupted(jax.random.key(1), images, half)
    pasted = (mixed[:, 10, 10, 0] > 0.6) & (jnp.abs(mixed[:, 40, 40, 0] - 0.4) < 1e-6)
    same = jnp.all(mixed == noise_only, axis=(1, 2, 3))
    assert 6 < int(pasted.sum()) < 26 and int((pasted | same).sum()) == 32
    out = tmp_path / "run"
    fit(AESC, half.model_copy(update={"epochs": 1}), open_dataset(line), out, product="line")
    assert open_run(out).config.defects_digest == half.defects_digest  # opened without the folder


def test_what_is_refused(synthesised, tmp_path, run):
    with pytest.raises(ConfigError, match=r"defects and defects_share go together. Set defects=FOLDER too"):
        tiny("defects_share=0.5")
    with pytest.raises(ConfigError, match=r"Set defects_share=0.5"):
        tiny(f"defects={synthesised}")
    with pytest.raises(ConfigError, match=r"is no folder. Name one that `synthesize` wrote"):
        tiny(f"defects={tmp_path / 'nowhere'}", "defects_share=1")
    with pytest.raises(ConfigError, match="does not hold what this run was started with"):
        tiny(f"defects={synthesised}", "defects_share=1", "defects_digest=abc")
    with pytest.raises(ConfigError, match=r"Go on with --set defects=FOLDER"):
        corrupted(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), tiny("defects_share=1", "defects_digest=abc"))
    (tmp_path / "test" / "dent").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "test" / "dent" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"has no mask: neither .*soft_masks.* nor .*ground_truth"):
        open_bank(tmp_path, SIDE)
    (tmp_path / "soft_masks" / "dent").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "soft_masks" / "dent" / "a.png"), np.zeros((9, 8), np.uint8))
    with pytest.raises(DataError, match=r"is 8 x 9 pixels; its image is 8 x 8"):
        open_bank(tmp_path, SIDE)
    with pytest.raises(DataError, match=r"holds 1 generated defects; at least 4"):
        refit(run, tmp_path)
