"""The rates that docs/retraining.md states for the drift alarm, measured on thousands of simulated lines."""

import numpy as np
import pytest

from edge_agent.drift.cusum import LEAST_PARTS, Cusum, Reference, limit_for
from edge_agent.drift.settings import DriftConfig
from edge_agent.drift.statistics import WATCHED

REFERENCE = DriftConfig().reference_parts
RUN_LENGTH = DriftConfig().false_alarm_parts * float(len(WATCHED))  # of each statistic by itself
WATCH = {watched.name: watched.worth * DriftConfig().change for watched in WATCHED}
BRIGHTNESS, SCORE = WATCH["brightness"], WATCH["score"]


def noise(kind: str, n: int, lines: int) -> np.ndarray:
    """float64 [n, lines]: mean 0, spread 1, as lines have it."""
    random = np.random.default_rng([n, len(kind)])
    normal = random.standard_normal((n, lines))
    if kind == "normal":
        return normal
    if kind == "correlated":  # from one part to the next by 0.8
        values = normal.copy()
        for at in range(1, n):
            values[at] = 0.8 * values[at - 1] + 0.6 * normal[at]
        return values
    if kind == "heavy-tailed":
        return random.standard_t(3, (n, lines)) / np.sqrt(3.0)
    if kind == "skewed":
        return random.exponential(size=(n, lines)) - 1.0
    assert kind == "two kinds of parts"
    return np.where(random.random((n, lines)) < 0.5, -1.0, 1.0) + 0.1 * normal


def watch(kind, sigma, worth, *, shift=0.0, parts, lines=300, run_length=RUN_LENGTH):
    """How many alarms there were in all, and the part of the first on each line (0: none)."""
    values = sigma * noise(kind, REFERENCE + parts, lines)
    cusum = Cusum(Reference.of(values[:REFERENCE]), np.full(lines, worth), run_length)
    alarms, first = 0, np.zeros(lines, int)
    for number, row in enumerate(values[REFERENCE:] + shift, start=1):
        began = cusum.observe(row)
        alarms += int(began.sum())
        first[began & (first == 0)] = number
    return alarms, first


@pytest.mark.parametrize("kind", ["normal", "correlated", "heavy-tailed", "skewed", "two kinds of parts"])
@pytest.mark.parametrize(("sigma", "worth"), [(0.01, BRIGHTNESS), (0.05, BRIGHTNESS), (0.06, SCORE)])
def test_false_alarms_are_no_more_frequent_than_stated(kind, sigma, worth):
    parts, lines, run_length = 2000, 400, 50_000.0  # short, so that there would be some to count
    alarms, _ = watch(kind, sigma, worth, parts=parts, lines=lines, run_length=run_length)
    assert alarms <= parts * lines / run_length


@pytest.mark.parametrize(
    ("sigma", "gain", "within"),
    [(0.01, 1.05, 15), (0.01, 0.95, 15), (0.025, 1.05, 25), (0.05, 1.05, 75), (0.05, 0.95, 75), (0.08, 1.05, 200)],
)
def test_five_percent_of_gain_are_found_within_the_stated_parts(sigma, gain, within):
    _, first = watch("normal", sigma, BRIGHTNESS, shift=np.log(gain), parts=within)
    assert np.mean(first > 0) >= 0.95
    assert first[first > 0].min() >= LEAST_PARTS


@pytest.mark.parametrize("rate", [0.04, 0.01])
def test_scores_that_creep_up_raise_the_alarm_before_the_false_reject_rate_doubles(rate):
    from statistics import NormalDist

    limit, double = NormalDist().inv_cdf(1.0 - rate), NormalDist().inv_cdf(1.0 - 2.0 * rate)
    lines, parts, sigma = 100, 30_000, 0.06
    random = np.random.default_rng(3)
    learned = random.standard_normal((REFERENCE, lines))
    learned[learned > limit] = np.nan  # of passes only
    mean, spread = np.nanmean(learned, axis=0), np.nanstd(learned, axis=0)
    cusum = Cusum(Reference(sigma * mean, sigma * spread, REFERENCE), np.full(lines, SCORE), RUN_LENGTH)
    shift_at_alarm = np.full(lines, np.inf)
    for part in range(parts):
        shift = 0.5 * part / parts  # in spreads: rather fast, for a lamp
        scores = random.standard_normal(lines) + shift
        began = cusum.observe(np.where(scores > limit, np.nan, sigma * scores))
        shift_at_alarm[began & np.isinf(shift_at_alarm)] = shift
    assert np.mean(shift_at_alarm < limit - double) >= 0.95


def test_no_single_part_and_no_nine_raise_an_alarm():
    cusum = Cusum(Reference(np.zeros(1), np.full(1, 0.01), REFERENCE), np.array([0.05]), RUN_LENGTH)
    for _ in range(LEAST_PARTS - 1):
        assert not cusum.observe(np.array([1e6])).any()
    assert cusum.observe(np.array([1e6])).any() or cusum.observe(np.array([1e6])).any()


def test_it_is_over_when_the_values_are_back_and_can_begin_again():
    random = np.random.default_rng(5)
    cusum = Cusum(Reference(np.zeros(2), np.full(2, 0.01), REFERENCE), np.full(2, 0.05), RUN_LENGTH)

    def until(change, shift, most=600):
        for part in range(1, most):
            cusum.observe(np.array([shift, 0.0]) + 0.01 * random.standard_normal(2))
            if cusum.drifted[0] == change:
                return part
        raise AssertionError("it stayed as it was")

    assert until(True, 0.05) <= 20
    assert not cusum.drifted[1]
    assert cusum.shift[0] == pytest.approx(0.05, abs=0.01)
    for _ in range(100):
        cusum.observe(np.array([0.05, 0.0]))
    assert cusum.drifted[0]
    assert until(False, 0.0) <= 500
    assert until(True, -0.05) <= 20
    assert cusum.shift[0] == pytest.approx(-0.05, abs=0.01)


def test_the_limit_is_siegmunds():
    # Siegmund's approximation at k = 0.5, h = 5 is 938.2 (tables: 930.9, by Markov chains)
    assert limit_for(np.array([0.5]), 938.2)[0] == pytest.approx(5.0, abs=0.01)
    assert limit_for(np.array([0.5]), 931.0)[0] == pytest.approx(5.0, abs=0.02)
