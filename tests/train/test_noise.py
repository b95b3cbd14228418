"""Corruption: Stain against a plain NumPy writing of the sheet's sampling, and what every model must keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp
from stain_reference import reference_stain_mask

from train.data.noise import NOISE_MODELS, Stain, add_stain, corrupt, stain_mask

IMAGES = jax.random.randint(jax.random.key(9), (16, 64, 64, 3), 0, 256) / 255.0


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    draw = jax.jit(jax.vmap(lambda key: stain_mask(key, 256, 256)))
    return np.asarray(draw(jax.random.split(jax.random.key(1), 600)))


@pytest.fixture(scope="module")
def reference_masks() -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.stack([reference_stain_mask(rng, 256, 256) for _ in range(600)])


def perimeter(masks: np.ndarray) -> np.ndarray:
    """Number of edges between a pixel inside and one outside, per mask."""
    return np.abs(np.diff(masks, axis=1)).sum((1, 2)) + np.abs(np.diff(masks, axis=2)).sum((1, 2))


def test_area_is_distributed_as_the_sheet_says(masks, reference_masks):
    area, reference = masks.mean((1, 2)), reference_masks.mean((1, 2))
    assert abs(area.mean() - 0.012) < 0.001  # sheet: about 1.2 % of the image
    assert ks_2samp(area, reference).pvalue > 0.01


def test_shape_is_distributed_as_the_sheet_says(masks, reference_masks):
    ratio, reference = (perimeter(m) ** 2 / m.sum((1, 2)) for m in (masks, reference_masks))
    assert ks_2samp(ratio, reference).pvalue > 0.01
    assert abs(np.median(ratio) / np.median(reference) - 1) < 0.05


def test_without_jitter_the_stain_is_the_ellipse():
    """Small stains stay smooth: the mean radius is below 10 px, so nothing is jittered."""
    stain = Stain(smallest=0.02, largest=0.03)
    for seed in range(20):
        mask = np.asarray(stain_mask(jax.random.key(seed), 256, 256, stain))
        rows, cols = np.nonzero(mask)
        eigenvalues = np.linalg.eigvalsh(np.cov(rows, cols)) + 1 / 12
        # A filled ellipse's variance along an axis is a quarter of the squared semi-axis.
        assert mask.sum() == pytest.approx(4 * np.pi * np.sqrt(np.prod(eigenvalues)), rel=0.08)


def test_stain_is_flat_grey_inside_and_changes_nothing_outside():
    key = jax.random.key(5)
    image = jax.random.uniform(jax.random.key(6), (256, 256, 3))
    stained = np.asarray(add_stain(key, image))
    inside = np.asarray(stain_mask(key, 256, 256)) > 0
    np.testing.assert_array_equal(stained[~inside], np.asarray(image)[~inside])
    assert 255 * stained[inside].std() < 6  # sigma of the grain is 3.6 grey levels
    channel_means = 255 * stained[inside].mean(0)
    assert np.ptp(channel_means) < 2


def test_levels_span_10_to_220():
    stained = jax.vmap(lambda key: add_stain(key, jnp.full((64, 64, 1), 2.0)))(jax.random.split(jax.random.key(0), 400))
    level = 255 * np.asarray(jnp.where(stained < 1.5, stained, jnp.nan))
    means = np.nanmean(level.reshape(400, -1), axis=1)
    assert means.min() < 20
    assert means.max() > 210
    assert ks_2samp(means, np.random.default_rng(0).uniform(10, 220, 4000)).pvalue > 0.01


@pytest.mark.parametrize("model", NOISE_MODELS)
def test_every_model_gives_an_8_bit_image_and_repeats_for_its_key(model):
    draw = jax.jit(partial(corrupt, model=model))
    noisy = draw(jax.random.key(3), IMAGES)
    levels = 255 * np.asarray(noisy)
    assert np.abs(levels - np.round(levels)).max() < 1e-3
    assert levels.min() > -1e-3
    assert levels.max() < 255 + 1e-3
    np.testing.assert_array_equal(noisy, draw(jax.random.key(3), IMAGES))
    changed = np.abs(np.asarray(noisy - IMAGES)).max((1, 2, 3)) > 1e-3
    assert not changed.any() if model == "none" else changed.mean() > 0.8
    if model != "none":
        other = draw(jax.random.key(4), IMAGES)
        assert not np.allclose(noisy, other)


@pytest.mark.parametrize("side", [32, 48, 100])
def test_small_and_odd_images_are_stained_too(side):
    stained = corrupt(jax.random.key(0), jnp.full((8, side, side, 1), 1.0), "stain")
    covered = np.asarray(stained < 0.99).mean((1, 2, 3))
    assert (covered > 0).all()
    assert covered.max() < 0.12


def test_blur_softens_the_edge_and_keeps_the_area():
    key = jax.random.key(11)
    hard, soft = (np.asarray(stain_mask(key, 256, 256, Stain(blur=blur))) for blur in (0.0, 0.15))
    assert ((soft > 0.05) & (soft < 0.95)).sum() > ((hard > 0.05) & (hard < 0.95)).sum() + 20
    assert soft.sum() == pytest.approx(hard.sum(), rel=0.05)


def test_drops_are_visible_and_scratches_are_thin():
    clean = jnp.full((16, 256, 256, 1), 1.0)
    drops = np.asarray(corrupt(jax.random.key(1), clean, "drops") < 0.99).sum((1, 2, 3))
    one_disc = np.pi * (0.015 * 256 + 1) ** 2
    assert (drops > 2 * one_disc).mean() > 0.8  # with the code's spacing they would coincide in one disc
    scratch = np.asarray(corrupt(jax.random.key(1), clean, "scratch") < 0.99).sum((1, 2, 3))
    assert 0 < np.median(scratch) < 256 * 3 * 3
