"""IAP and IAP90 against their definition written down directly: every threshold, every area, one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from train.metrics.auroc import average_precision, rank
from train.metrics.iap import instance_precision


def slow_iap(maps, masks):
    """From the highest threshold down, where another area is found: how many are, and the precision of pixels there.

    Then for every number of areas the best precision with which as many or more are found.
    """
    areas = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, n_areas = ndimage.label(mask, structure=np.ones((3, 3)))
        areas += [anomaly_map[labels == i + 1] for i in range(n_areas)]
    points = []
    for threshold in np.unique(maps)[::-1]:
        found = sum(2 * int((area >= threshold).sum()) > area.size for area in areas)
        if found > (points[-1][0] if points else 0):
            points.append((found, masks[maps >= threshold].mean()))
    best = [max(precision for found, precision in points if found >= wanted) for wanted in range(1, len(areas) + 1)]
    at_90 = next(value for number, value in enumerate(best, start=1) if 10 * number >= 9 * len(areas))
    return np.mean(best), at_90, len(areas)


def draw(seed, n_values):
    """Three maps and masks with several areas, touching at corners too; one mask is empty."""
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 9, 8)) < rng.uniform(0.02, 0.5)
    masks[0] = False
    masks[1, 2, 3], masks[1, 5, 5] = True, False
    maps = (rng.integers(0, n_values, masks.shape) + rng.integers(0, 2) * masks) / n_values
    return maps.astype(np.float32), masks


cases = st.builds(draw, seed=st.integers(0, 2**16), n_values=st.sampled_from([1, 2, 5, 10**6]))


@settings(deadline=None)
@given(case=cases)
def test_is_the_definition(case):
    maps, masks = case
    iap, iap90, areas = slow_iap(maps, masks)
    found = instance_precision(rank(maps, masks), maps, masks)
    assert found.regions == areas
    assert found.iap == pytest.approx(iap, abs=1e-12)
    assert found.iap90 == pytest.approx(iap90, abs=1e-12)


def test_a_small_defect_counts_as_much_as_a_large_one():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :6, :6] = True  # 36 pixels, all seen
    masks[0, 9, 9] = True  # one, seen only where all pixels are
    maps = masks.astype(np.float32)
    maps[0, 9, 9] = -1
    ranking = rank(maps, masks)
    found = instance_precision(ranking, maps, masks)
    assert found == (pytest.approx((1 + 0.37) / 2), pytest.approx(0.37), 2)
    assert average_precision(ranking) == pytest.approx((36 + 0.37) / 37)


@pytest.mark.parametrize(("seen", "is_found"), [(2, False), (3, True)])
def test_more_than_half_of_an_area_must_be_seen(seen, is_found):
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 0] = True
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, :seen] = 1
    assert instance_precision(rank(maps, masks), maps, masks).iap == (1.0 if is_found else 0.25)


@pytest.mark.parametrize(("missed", "iap90"), [(1, 1.0), (2, 10 / 200)])
def test_iap90_lets_a_tenth_of_the_areas_go(missed, iap90):
    masks = np.zeros((1, 10, 20), bool)
    masks[0, 0, ::2] = True  # ten areas of one pixel
    maps = masks.astype(np.float32)
    maps[0, 0, : 2 * missed : 2] = -1
    found = instance_precision(rank(maps, masks), maps, masks)
    assert found.iap90 == pytest.approx(iap90)
    assert found.iap == pytest.approx((10 - missed + missed * 10 / 200) / 10)


def test_without_defects_or_without_good_pixels_there_is_none():
    maps = np.random.default_rng(0).random((2, 3, 3))
    for masks in (np.zeros((2, 3, 3), bool), np.ones((2, 3, 3), bool)):
        assert instance_precision(rank(maps, masks), maps, masks) is None
