"""Tiles cover the image, their maps blend without seams, and what a tile shows scores as in the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from train.config import ConfigError, config_digest, find_config, load_config
from train.detectors.fastflow import FASTFLOW, FastFlowConfig
from train.tiling import Tiling

TILINGS = {"tile": st.integers(2, 20), "more": st.integers(1, 60), "share": st.floats(0, 0.5)}


@given(**TILINGS)
def test_whole_tiles_cover_the_image_and_share_what_was_asked_for(tile, more, share):
    tiling = Tiling(tile + more, tile, int(share * tile))
    assert tiling.starts[0] == 0
    assert tiling.starts[-1] + tiling.tile == tiling.size
    shared = [a + tiling.tile - b for a, b in zip(tiling.starts, tiling.starts[1:], strict=False)]
    assert all(tiling.overlap <= pixels < tiling.tile for pixels in shared)


@given(**TILINGS)
def test_weights_sum_to_one_at_every_pixel(tile, more, share):
    tiling = Tiling(tile + more, tile, int(share * tile))
    total = np.zeros(tiling.size)
    for start, weights in zip(tiling.starts, tiling.weights, strict=True):
        assert (weights > 0).all()
        total[start : start + tiling.tile] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_fall_linearly_over_the_overlap():
    np.testing.assert_allclose(Tiling(12, 8, 4).weights[0], [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(Tiling(12, 8, 4).weights[1], [0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1])
    pushed = Tiling(16, 8, 2)
    assert pushed.starts == (0, 6, 8)  # the last shares 6 pixels with the second, so the slope is as long
    np.testing.assert_allclose(np.diff(pushed.weights[2][:6]), 1 / 6, atol=1e-6)


@pytest.mark.parametrize("tiling", [Tiling(12, 8, 4), Tiling(30, 8, 2), Tiling(30, 12, 6), Tiling(20, 16, 0)])
def test_the_blend_of_the_tiles_of_a_field_is_the_field(tiling):
    fields = np.random.default_rng(0).normal(size=(2, tiling.size, tiling.size)).astype(np.float32)
    np.testing.assert_allclose(tiling.blend(tiling.cut(jnp.asarray(fields))), fields, atol=1e-6)
    constant = jnp.full((2 * len(tiling), tiling.tile, tiling.tile), 0.7)
    np.testing.assert_allclose(tiling.blend(constant), np.full_like(fields, 0.7), rtol=1e-6)


def test_tiles_that_disagree_meet_on_a_slope():
    """One tile says 0, its neighbour 1: the blend goes from one to the other in equal steps, not in one."""
    tiling = Tiling(12, 8, 4)
    maps = jnp.stack([jnp.zeros((8, 8)), jnp.ones((8, 8))] * 2)
    np.testing.assert_allclose(tiling.blend(maps)[0, 5], [0] * 4 + [0.125, 0.375, 0.625, 0.875] + [1] * 4, atol=1e-6)


@pytest.mark.parametrize("chosen", [None, (0, 3, 8)])
def test_every_way_to_a_tile_gives_the_same_pixels(chosen):
    tiling = Tiling(20, 8, 2, chosen)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    cut = np.asarray(tiling.cut(jnp.asarray(images)))
    assert len(cut) == 2 * len(tiling) == 2 * (3 if chosen else 9)
    np.testing.assert_array_equal(tiling.parts(jnp.asarray(images), jnp.arange(len(cut))), cut)
    for number, tile in enumerate(cut):
        np.testing.assert_array_equal(tiling.part(images[number // len(tiling)], number % len(tiling)), tile)


def test_tiles_without_a_judged_pixel_are_left_out():
    mask = np.zeros((20, 20), bool)
    mask[:3, 5:7] = mask[19, 19] = True
    tiling = Tiling(20, 8, 2).over(mask)
    assert tiling.corners == ((0, 0), (0, 6), (12, 12))
    fields = np.random.default_rng(0).normal(size=(2, 20, 20)).astype(np.float32)
    blended = np.asarray(tiling.blend(tiling.cut(jnp.asarray(fields))))
    np.testing.assert_allclose(blended[:, mask], fields[:, mask], atol=1e-6)


def test_an_image_that_is_its_only_tile_is_left_as_it_is():
    images = jnp.ones((2, 8, 8, 3))
    assert Tiling(8, 8).cut(images) is images
    assert Tiling(8, 8).blend(images[..., 0]).shape == (2, 8, 8)


def scored(images, **settings):
    """Raw maps of an untrained network, the same one whatever the tiles."""
    config = FastFlowConfig(backbone="mini", flow_steps=1, normalisation="whiten", **settings)
    network = FASTFLOW.build(config, nnx.Rngs(0))
    network.eval()
    weights = FASTFLOW.fold(network, FASTFLOW.frozen.load(config), config)
    return FASTFLOW.score(weights, images, config)


@pytest.fixture(scope="module")
def pictures():
    """Coarse and fine structure, so that neighbouring pixels are alike but no two places are."""
    noise = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    coarse = jax.image.resize(noise, (2, 256, 256, 3), "bicubic")
    fine = 0.2 * jax.random.normal(jax.random.key(1), coarse.shape)
    return jnp.clip(128 + 40 * (coarse + fine), 0, 255).astype(jnp.uint8)


@pytest.mark.slow
def test_what_only_one_tile_sees_scores_as_in_the_whole_image(pictures):
    """Up to float32, 64 px from where the tile ends: 15 of the backbone, 2 cells of 16 of the flow, 16 of upsampling.
    Nearer they differ, because a tile's border is padded with zeros where the image goes on.
    """
    whole, tiled = scored(pictures, image_size=256), scored(pictures, image_size=256, tile=160, tile_overlap=64)
    ours, theirs = np.asarray(tiled.anomaly_map), np.asarray(whole.anomaly_map)
    far = np.r_[0:96, 160:256]  # of the columns and rows that one tile covers, its border is 64 px away
    np.testing.assert_allclose(ours[:, far][:, :, far], theirs[:, far][:, :, far], atol=2e-6)
    assert np.abs(ours - theirs).max() > 1e-4
    assert np.abs(ours - theirs).max() < 0.15
    np.testing.assert_allclose(tiled.image_score, ours.max(axis=(1, 2)))


@pytest.mark.slow
def test_no_seam_shows(pictures):
    """Steps between neighbouring columns are no larger where tiles begin or end; without an overlap they are."""

    def steps_at(maps, columns):
        steps = np.abs(np.diff(np.asarray(maps), axis=2)).mean(axis=(0, 1))
        return steps[np.array(columns) - 1].max() / np.median(steps)

    blended = scored(pictures, image_size=256, tile=96, tile_overlap=32).anomaly_map
    assert steps_at(blended, [64, 96, 128, 160, 192]) < 2
    abutting = scored(pictures, image_size=256, tile=64, tile_overlap=0).anomaly_map
    assert steps_at(abutting, [64, 128, 192]) > 4


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["tile=64"], "--set tile is 64. tile must be smaller than image_size, which is 64"),
        (["image_size=128", "tile=50"], "--set tile is 50. mini takes multiples of 16 pixels. The nearest is 48."),
        (["tile_overlap=8"], "There are no tiles to overlap: set tile too"),
        (["image_size=128", "tile=64", "tile_overlap=40"], "at most half of tile, which is 64"),
        (["image_size=512", "backbone=cait_m48_448", "tile=256"], "tile must be 448: cait_m48_448 was published for"),
        (["tile=-1"], "--set tile is -1"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(settings, text):
    with pytest.raises(ConfigError) as caught:
        load_config(find_config("fastflow", "tiny"), FASTFLOW.schema, settings)
    assert text in str(caught.value)


def test_the_image_need_be_no_multiple_when_its_tiles_are():
    assert FastFlowConfig(backbone="mini", image_size=100, tile=48).tiling.starts == (0, 36, 52)


def test_digests_of_runs_without_tiles_are_those_of_before():
    assert config_digest(FastFlowConfig()) == config_digest(FastFlowConfig(tile=0, tile_overlap=None))
    assert config_digest(FastFlowConfig(image_size=512)) != config_digest(FastFlowConfig(image_size=512, tile=256))
    assert config_digest(FastFlowConfig()) == "2ae074d4d4a56681"
