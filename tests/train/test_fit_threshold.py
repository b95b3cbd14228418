"""Thresholds on held-out good images: the promise holds in simulation, small sets say what they support."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from train.fit_threshold import ThresholdError, Thresholds, fit_thresholds, images_needed


def maps_for(n, seed=0):
    return np.random.default_rng(seed).gamma(2.0, 1.0, (n, 12, 10)).astype(np.float32)


def scores_of(n, seed=0):
    return np.random.default_rng(seed).gamma(2.0, 1.0, n).astype(np.float32)


def test_a_hundred_images_support_one_percent():
    scores = scores_of(99)
    thresholds = fit_thresholds(scores, maps_for(99))
    assert thresholds.image == scores.max()
    assert thresholds.supported_false_reject_rate == pytest.approx(0.01)
    assert "asked for" not in thresholds.rule
    assert thresholds.rule.startswith(
        "The image threshold is the largest score of 99 held-out good images, so a good part is rejected with a "
        "probability of at most 1 %; with 95 % confidence the rate lies between 0.026 % and 3.7 %."
    )


def test_too_few_for_the_rate_take_the_largest_score_and_say_so():
    scores = scores_of(42)
    thresholds = fit_thresholds(scores, maps_for(42))
    assert thresholds.image == scores.max()
    assert thresholds.target_false_reject_rate == 0.01
    assert thresholds.supported_false_reject_rate == pytest.approx(1 / 43)
    assert thresholds.false_reject_rate_interval == pytest.approx((1 - 0.975 ** (1 / 42), 1 - 0.025 ** (1 / 42)))
    assert "at most 2.3 % (1 % was asked for, which takes 99 held-out images)" in thresholds.rule


def test_many_images_take_an_inner_score():
    scores = scores_of(400)
    thresholds = fit_thresholds(scores, maps_for(400), target_false_reject_rate=0.05)
    assert thresholds.image == np.sort(scores)[380]  # ceil(401 x 0.95) = 381st
    assert thresholds.supported_false_reject_rate == pytest.approx(20 / 401)
    assert "the 20th largest score of 400" in thresholds.rule


def test_rounding_does_not_move_the_threshold():
    scores = np.arange(1, 250, dtype=np.float32)  # a score is its own position
    assert fit_thresholds(scores, maps_for(249), target_false_reject_rate=0.172).image == 207  # 250 x 0.828


@given(n=st.integers(4, 500), rate=st.floats(0.001, 0.5))
def test_rate_is_met_by_the_lowest_score_that_can_or_the_largest_is_taken(n, rate):
    scores = np.arange(1, n + 1, dtype=np.float32)  # a score is its own position
    thresholds = fit_thresholds(scores, maps_for(n), target_false_reject_rate=rate)
    position = round(thresholds.image)
    supported = (n + 1 - position) / (n + 1)
    assert thresholds.supported_false_reject_rate == pytest.approx(supported)
    if n >= images_needed(rate):
        assert supported <= rate + 1e-9 < supported + 1 / (n + 1) + 2e-9
    else:
        assert position == n
        assert supported > rate
    low, high = thresholds.false_reject_rate_interval
    assert low < supported < high


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (60, 0.05), (30, 0.01)])
def test_promise_holds_on_new_parts(n, rate):
    rng = np.random.default_rng(n)
    rejected, inside = [], []
    maps = maps_for(n)
    for _ in range(400):
        thresholds = fit_thresholds(rng.lognormal(size=n), maps, target_false_reject_rate=rate)
        true_rate = 0.5 * math.erfc(math.log(thresholds.image) / math.sqrt(2))  # of log-normal scores above it
        rejected.append(true_rate)
        low, high = thresholds.false_reject_rate_interval
        inside.append(low <= true_rate <= high)
    assert np.mean(rejected) == pytest.approx(thresholds.supported_false_reject_rate, rel=0.15)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


@given(seed=st.integers(0, 2**16), quantile=st.floats(0.01, 0.9999))
def test_pixel_threshold_leaves_no_more_than_the_stated_share_above(seed, quantile):
    maps = maps_for(5, seed)
    thresholds = fit_thresholds(scores_of(5), maps, pixel_quantile=quantile)
    assert np.mean(maps > thresholds.pixel) <= 1 - quantile + 1e-9
    assert np.mean(maps >= thresholds.pixel) > 1 - quantile - 1e-9
    assert thresholds.pixel in maps


@given(seed=st.integers(0, 2**16), exponent=st.integers(-20, 20))
def test_dividing_by_a_threshold_keeps_verdicts_in_float32(seed, exponent):
    scores = scores_of(40, seed) * np.float32(2.0**exponent)
    thresholds = fit_thresholds(scores, maps_for(40), target_false_reject_rate=0.1)
    near = np.float32(thresholds.image)
    probes = np.concatenate([scores, [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]])
    probes = probes.astype(np.float32)
    np.testing.assert_array_equal(probes / near > 1, probes > thresholds.image)


def test_maps_that_are_mostly_zero_take_the_smallest_positive_pixel():
    maps = np.zeros((5, 20, 20), np.float32)
    maps[2, 3, 4], maps[3, 0, 0] = 0.5, 0.25
    thresholds = fit_thresholds(scores_of(5), maps)
    assert thresholds.pixel == 0.25
    assert thresholds.rule.endswith(
        "The pixel threshold is their smallest pixel score above 0, as 99.9 % of them are 0."
    )


def broken(n, value):
    scores = scores_of(n)
    scores[1] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "maps", "message"),
    [
        (scores_of(3), maps_for(3), r"^3 held-out good images are too few .* at least 4 are needed, and 99 for .* 1 %"),
        (scores_of(1), maps_for(1), r"^1 held-out good image is too few"),
        (scores_of(0), maps_for(0), r"^0 held-out good images are too few"),
        (broken(9, np.nan), maps_for(9), r"image scores of 1 of 9 .* not finite numbers.*training log"),
        (broken(9, np.inf), maps_for(9), r"image scores of 1 of 9 .* not finite"),
        (scores_of(9), np.full((9, 4, 4), np.nan, np.float32), r"pixel scores of 9 of 9 .* not finite"),
        (broken(9, -0.5), maps_for(9), r"lowest image score of the held-out good images is -0.5; .* not be negative"),
        (scores_of(9), maps_for(9) - 9, r"lowest pixel score"),
        (np.full(9, 0.25, np.float32), maps_for(9), r"All 9 held-out good images have the same score, 0.25"),
        (np.zeros(9, np.float32), maps_for(9), r"All 9 .* the same score, 0"),
        (scores_of(9), np.zeros((9, 4, 4), np.float32), r"Every pixel of every held-out good image scores 0"),
    ],
)
def test_no_threshold_is_fitted_on_scores_that_cannot_carry_one(scores, maps, message):
    with pytest.raises(ThresholdError, match=message):
        fit_thresholds(scores, maps)


def test_a_zero_among_the_order_statistics_is_no_threshold():
    scores = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2], np.float32)
    with pytest.raises(ThresholdError, match="8 of 10 held-out good images score 0, which cannot be a threshold"):
        fit_thresholds(scores, maps_for(10), target_false_reject_rate=0.3)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_rates_outside_0_and_1_are_refused(rate):
    with pytest.raises(ThresholdError, match=r"false-reject rate to aim at is .* between 0 and 1"):
        fit_thresholds(scores_of(9), maps_for(9), target_false_reject_rate=rate)
    with pytest.raises(ThresholdError, match=r"pixel quantile is .* between 0 and 1"):
        fit_thresholds(scores_of(9), maps_for(9), pixel_quantile=rate)


@given(values=st.lists(st.floats(0, 1e6, width=32), min_size=4, max_size=30))
def test_whatever_the_scores_the_threshold_is_positive_or_refused(values):
    scores = np.array(values, np.float32)
    assume(scores.min() < scores.max())
    try:
        thresholds = fit_thresholds(scores, maps_for(len(scores)))
    except ThresholdError as error:
        assert "score 0" in str(error)
    else:
        assert thresholds.image > 0
        assert thresholds.pixel > 0


def test_file_gives_back_the_same_thresholds():
    thresholds = fit_thresholds(scores_of(30), maps_for(30))
    assert Thresholds.model_validate_json(thresholds.model_dump_json()) == thresholds
