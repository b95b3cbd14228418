"""AUPRO against its definition written down directly: every threshold, every region, one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from train.metrics.aupro import aupro, count_regions
from train.metrics.auroc import auroc, rank


def slow_aupro(maps, masks, fpr_limit):
    """Walks the thresholds from the highest score down and adds up trapezoids, the last one cut at the limit."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == i + 1] for i in range(n_regions)]
    good_pixels = maps[~masks]
    area, fpr, pro = 0.0, 0.0, 0.0
    for threshold in np.unique(maps)[::-1]:
        next_fpr = np.mean(good_pixels >= threshold)
        next_pro = np.mean([np.mean(region >= threshold) for region in regions])
        if next_fpr >= fpr_limit:
            cut = (fpr_limit - fpr) / (next_fpr - fpr)
            return (area + (fpr_limit - fpr) * (pro + (pro + cut * (next_pro - pro))) / 2) / fpr_limit
        area += (next_fpr - fpr) * (pro + next_pro) / 2
        fpr, pro = next_fpr, next_pro
    raise AssertionError("the curve ends at FPR 1")


def draw(seed, n_values):
    """Three maps and masks with several regions, touching at corners too; one mask is empty."""
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 9, 8)) < rng.uniform(0.02, 0.5)
    masks[0] = False
    masks[1, 2, 3], masks[1, 5, 5] = True, False
    maps = (rng.integers(0, n_values, masks.shape) + rng.integers(0, 2) * masks) / n_values
    return maps.astype(np.float32), masks


cases = st.builds(draw, seed=st.integers(0, 2**16), n_values=st.sampled_from([1, 2, 5, 10**6]))


@settings(deadline=None)
@given(case=cases, fpr_limit=st.sampled_from([0.05, 0.3, 0.999]))
def test_is_the_definition(case, fpr_limit):
    maps, masks = case
    expected = slow_aupro(maps, masks, fpr_limit)
    assert aupro(rank(maps, masks), maps, masks, fpr_limit=fpr_limit) == pytest.approx(expected, abs=1e-9)


@given(case=cases)
def test_only_the_order_of_pixels_matters(case):
    maps, masks = case
    exact = maps.astype(np.float64)
    stretched = np.exp(3 * exact)
    assert aupro(rank(stretched, masks), stretched, masks) == aupro(rank(exact, masks), exact, masks)


@given(seed=st.integers(0, 2**16))
def test_one_region_up_to_fpr_1_is_auroc(seed):
    maps = np.random.default_rng(seed).random((2, 6, 6)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[1, 1:4, 2:5] = True
    ranking = rank(maps, masks)
    assert aupro(ranking, maps, masks, fpr_limit=1.0) == pytest.approx(auroc(ranking), abs=1e-12)


def test_a_small_region_counts_as_much_as_a_large_one():
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :4, :4] = True
    masks[0, 7, 7] = True
    maps = np.zeros(masks.shape, np.float32)
    maps[0, 7, 7] = 1.0  # only the small one is found; the large one is tied with all good pixels
    # PRO is 1/2 from FPR 0 on and rises to 1 in a straight line.
    assert aupro(rank(maps, masks), maps, masks) == pytest.approx(0.5 + 0.5 * 0.15)


def test_regions_that_touch_at_a_corner_are_one():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = masks[1, 0, 0] = True
    assert count_regions(masks) == 3


def test_best_worst_and_constant_maps():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :2, :2] = True
    good, bad, constant = masks.astype(np.float32), (~masks).astype(np.float32), np.ones(masks.shape, np.float32)
    assert [aupro(rank(m, masks), m, masks) for m in (good, bad, constant)] == pytest.approx([1.0, 0.0, 0.15])


@pytest.mark.parametrize("value", [True, False])
def test_one_class_only_has_no_figure(value):
    maps = np.zeros((1, 4, 4), np.float32)
    masks = np.full(maps.shape, value)
    assert aupro(rank(maps, masks), maps, masks) is None
