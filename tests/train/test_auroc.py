"""AUROC, average precision, F1-max and the ROC curve against scikit-learn, and what must hold of them anyway."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from train.metrics.auroc import auroc, average_precision, f1_max, rank, roc_curve


def draw(seed, n, n_values, dtype=np.float32):
    """Scores on few values, so that many are tied within and between the classes; both classes are present."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < rng.uniform(0.1, 0.9)
    positive[:2] = True, False
    return ((rng.integers(0, n_values, n) + rng.integers(0, 3) * positive) / n_values).astype(dtype), positive


tied_scores = st.builds(
    draw,
    seed=st.integers(0, 2**16),
    n=st.integers(2, 300),
    n_values=st.sampled_from([1, 2, 7, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)


@given(case=tied_scores)
def test_auroc_is_that_of_scikit_learn(case):
    scores, positive = case
    assert auroc(rank(scores, positive)) == pytest.approx(sk.roc_auc_score(positive, scores), abs=1e-12)


@given(case=tied_scores)
def test_average_precision_is_that_of_scikit_learn(case):
    scores, positive = case
    expected = sk.average_precision_score(positive, scores)
    assert average_precision(rank(scores, positive)) == pytest.approx(expected, abs=1e-12)


@given(case=tied_scores)
def test_f1_max_is_the_best_point_of_scikit_learns_curve(case):
    scores, positive = case
    precision, recall, _ = sk.precision_recall_curve(positive, scores)
    best = f1_max(rank(scores, positive))
    assert best.value == pytest.approx(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))
    assert best.value == pytest.approx(sk.f1_score(positive, scores >= best.threshold))


@given(case=tied_scores)
def test_roc_curve_has_every_corner_and_the_area_of_auroc(case):
    scores, positive = case
    ranking = rank(scores, positive)
    fpr, tpr = roc_curve(ranking)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(ranking), abs=1e-12)
    corners = set(zip(*(np.round(axis, 12) for axis in (fpr, tpr)), strict=True))
    reference = zip(*(np.round(axis, 12) for axis in sk.roc_curve(positive, scores)[:2]), strict=True)
    # scikit-learn drops points on a straight line only, so each of its points is a corner of ours or lies on a line.
    assert all(corner in corners or np.interp(corner[0], fpr, tpr) == pytest.approx(corner[1]) for corner in reference)


@given(case=tied_scores)
def test_only_the_order_of_scores_matters(case):
    scores, positive = case
    exact = scores.astype(np.float64)
    ranking, stretched = rank(exact, positive), rank(np.exp(3 * exact) - 7, positive)
    assert auroc(stretched) == auroc(ranking)
    assert average_precision(stretched) == average_precision(ranking)
    assert f1_max(stretched).value == f1_max(ranking).value


@given(case=tied_scores)
def test_swapped_classes_mirror_auroc(case):
    scores, positive = case
    assert auroc(rank(scores, ~positive)) == pytest.approx(1 - auroc(rank(scores, positive)), abs=1e-12)


def test_known_values():
    ranking = rank(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    assert auroc(ranking) == 0.75
    assert average_precision(ranking) == pytest.approx(0.8333333333333333)
    assert f1_max(ranking) == (pytest.approx(0.8), 0.35)
    perfect = rank(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    assert (auroc(perfect), average_precision(perfect), f1_max(perfect)) == (1.0, 1.0, (1.0, 2.0))
    constant = rank(np.full(10, 0.5, np.float32), np.arange(10) < 4)
    assert (auroc(constant), average_precision(constant)) == (0.5, 0.4)


def test_infinite_scores_have_a_rank():
    ranking = rank(np.array([0.0, np.inf, np.inf, 1.0]), np.array([False, False, True, True]))
    assert auroc(ranking) == pytest.approx(0.625)


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_one_class_only_has_no_figure(positive):
    ranking = rank(np.arange(len(positive), dtype=np.float32), np.array(positive, bool))
    assert ranking.one_class
    assert [figure(ranking) for figure in (auroc, average_precision, f1_max, roc_curve)] == [None] * 4


@pytest.mark.parametrize("positive", [True, False])
def test_nan_is_refused(positive):
    with pytest.raises(ValueError, match="1 of 3 scores are NaN, and NaN has no rank"):
        rank(np.array([0.0, np.nan, 1.0]), np.array([True, positive, False]))


def test_counts_beyond_32_bits_stay_exact():
    n = 200_000  # 1e5 x 1e5 pairs, twice, is more than 2**32
    scores = np.arange(n, dtype=np.float32)
    assert auroc(rank(scores, scores >= n / 2)) == 1.0
    assert auroc(rank(scores, scores < n / 2)) == 0.0
