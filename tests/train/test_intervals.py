"""Exact intervals against scipy.stats, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from train.metrics.intervals import clopper_pearson, exceedance_interval, percent


@given(trials=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_clopper_pearson_is_scipys_exact_interval(trials, share, confidence):
    events = round(share * trials)
    expected = stats.binomtest(events, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(events, trials, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-9)


def test_no_event_in_twenty_still_allows_one_in_six():
    assert clopper_pearson(0, 20) == (0.0, pytest.approx(0.1684, abs=1e-4))


def test_nothing_tried_says_nothing():
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("events", "trials"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(events, trials):
    with pytest.raises(ValueError, match=f"{events} events of {trials} trials"):
        clopper_pearson(events, trials)


@given(n=st.integers(1, 300))
def test_share_above_the_largest_has_a_closed_form(n):
    # P(the largest of n lies below quantile q) = q^n
    expected = 1 - 0.975 ** (1 / n), 1 - 0.025 ** (1 / n)
    assert exceedance_interval(n, n) == pytest.approx(expected, rel=1e-9)


def test_interval_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    low, high = exceedance_interval(37, 40)
    above = 1 - np.sort(rng.random((20_000, 40)), axis=1)[:, 36]  # uniform: the share above a value v is 1 - v
    assert np.mean((low <= above) & (above <= high)) == pytest.approx(0.95, abs=0.006)
    assert np.mean(above) == pytest.approx(4 / 41, abs=0.002)


@pytest.mark.parametrize("position", [0, 6])
def test_a_position_outside_is_refused(position):
    with pytest.raises(ValueError, match=f"no value number {position} of 5"):
        exceedance_interval(position, 5)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.01, "1 %"),
        (0.07, "7 %"),
        (1 / 43, "2.3 %"),
        (0.16843, "17 %"),
        (0.000612, "0.061 %"),
        (0.999, "99.9 %"),
        (0.9, "90 %"),
        (0.99999, "99.999 %"),
        (0.8996, "90 %"),
    ],
)
def test_a_rate_reads_well_and_never_rounds_to_certainty(rate, text):
    assert percent(rate) == text
