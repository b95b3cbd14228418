"""AdaBLDM's foreground predictor on drawn parts, and its sentences where there is none."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from train.backbones.mini import MINI
from train.backbones.pretrained import random_weights
from train.generators.adabldm.foreground import (
    ForegroundError,
    Seen,
    check_shares,
    closed,
    discriminate,
    fit_foreground,
    foregrounds,
    linear_discriminant,
    two_means,
    whole,
)

SIZE, SEEN = 64, Seen(MINI, side=256)


def parts(count: int, seed: int = 0):
    """Round parts on a grey ground, and where they are."""
    random, images, masks = np.random.default_rng(seed), [], []
    for _ in range(count):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.circle(mask, tuple(random.integers(28, 37, 2).tolist()), int(random.integers(12, 18)), 1, -1)
        image = random.normal(90, 4, (SIZE, SIZE, 3)) + mask[..., None] * np.array([90, 40, -40])
        images.append(np.clip(image, 0, 255).astype(np.uint8))
        masks.append(mask > 0)
    return np.stack(images), np.stack(masks)


@pytest.fixture(scope="module")
def backbone():
    return random_weights(MINI, SEEN.input_side, 0)


def overlap(found, true):
    return (found & true).sum() / (found | true).sum()


def test_parts_are_found_in_images_that_it_never_saw(backbone):
    images, masks = parts(9)
    discriminant, found = fit_foreground(SEEN, backbone, images, [str(n) for n in range(9)], 0)
    assert found.shape == masks.shape
    assert overlap(found, masks) > 0.75
    later, true = parts(3, seed=1)
    again = np.asarray(jax.jit(lambda *a: foregrounds(SEEN, *a))(backbone, discriminant, jnp.asarray(later)))
    assert overlap(again, true) > 0.75
    assert SEEN.tap == 2, "the map with a cell for 16 x 16 pixels"


def cells(part: float, ring: float = 0.0, seed: int = 0):
    """Features of 2 kinds in an area of 20 x 20: those of the part in its middle, and in a share of the ring."""
    random = np.random.default_rng(seed)
    kind = np.zeros((2, 20, 20), bool)
    reach = int(10 * part)
    kind[:, 10 - reach : 10 + reach, 10 - reach : 10 + reach] = True
    kind[:, :, : int(20 * ring)] = True
    features = random.normal(0, 1, (2, 20, 20, 6)) + kind[..., None] * np.array([0, 6, 0, -5, 0, 3])
    return features.astype(np.float32), kind


@pytest.mark.parametrize("more", [1.0, -1.0], ids=["as it is", "other kinds"])
def test_the_part_is_what_does_not_rule_along_the_border(more):
    maps, kind = cells(0.6)
    discriminant = discriminate(more * maps, 3)
    scaled = np.asarray(discriminant.scaled(jnp.asarray(more * maps)))
    assert scaled.min() == pytest.approx(0, abs=1e-5) and scaled.max() == pytest.approx(1, abs=1e-5)
    assert ((scaled > 127 / 255) == kind).mean() > 0.97


def test_a_border_of_both_kinds_is_no_background():
    with pytest.raises(ForegroundError, match=r"borders are no clear background: .* has 5\d% of it, at least 60%"):
        discriminate(cells(0.3, ring=0.5)[0], 0)


def test_a_foreground_of_nothing_or_everything_names_its_image():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:6, 2:6] = True
    with pytest.raises(ForegroundError, match=r"b.png: the foreground found covers 0.0% .* 1% to 98%. .*=texture"):
        check_shares(masks, ["a.png", "b.png"])
    masks[1] = True
    with pytest.raises(ForegroundError, match=r"b.png: the foreground found covers 100.0%"):
        check_shares(masks, ["a.png", "b.png"])
    with pytest.raises(ForegroundError, match="all of each looks the same"):
        discriminate(np.ones((1, 9, 9, 4), np.float32), 0)


def test_textures_take_the_whole_image():
    assert whole(parts(2)[0]).all()


def test_clusters_are_those_of_the_means():
    random = np.random.default_rng(4)
    vectors = np.concatenate([random.normal(-3, 1, (700, 5)), random.normal(4, 1, (300, 5))])
    centres = two_means(vectors, random)
    order = np.argsort(centres[:, 0])
    np.testing.assert_allclose(centres[order], [vectors[:700].mean(axis=0), vectors[700:].mean(axis=0)], atol=1e-9)


def test_the_discriminant_points_as_scikit_learns():
    random = np.random.default_rng(5)
    mixing = np.eye(6) + 0.3 * random.normal(0, 1, (6, 6))
    part = random.random(800) < 0.3
    vectors = (random.normal(0, 1, (800, 6)) + part[:, None] * np.array([2, 0, 0, 1, 0, 0])) @ mixing
    ours = linear_discriminant(vectors, part)
    theirs = LinearDiscriminantAnalysis().fit(vectors, part).coef_[0]
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.999


def test_closing_is_scipys_and_the_frame_takes_nothing_away():
    masks = np.random.default_rng(6).random((2, 24, 24)) < 0.1
    wide = np.pad(masks, ((0, 0), (8, 8), (8, 8)))
    expected = ndimage.binary_closing(wide, np.ones((1, 5, 5)))[:, 8:-8, 8:-8]
    inside = (slice(None), slice(4, -4), slice(4, -4))
    found = np.asarray(closed(jnp.asarray(masks)))
    np.testing.assert_array_equal(found[inside], expected[inside])
    assert (found | ~masks).all()
