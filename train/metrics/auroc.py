"""AUROC, ROC curve, average precision (AUPR) and best F1 of scores against labels, from one ranking.

Every figure here changes only where the threshold passes the score of a positive, so a ranking holds one step per
distinct positive score. It costs one sort of the negatives in their own precision (34 million float32 pixels are
sorted once, not once per metric) and one binary search; counts are integers, so ties are exact and nothing is sampled.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Ranking(NamedTuple):
    """How positives and negatives lie among each other, one entry per distinct score of a positive, highest first."""

    threshold: Float[np.ndarray, " k"]  # the distinct scores of positives
    true_positives: Int[np.ndarray, " k"]  # positives at or above the threshold
    false_positives: Int[np.ndarray, " k"]  # negatives at or above it
    false_positives_above: Int[np.ndarray, " k"]  # negatives above it; those between the two are tied with positives
    n_positive: int
    n_negative: int

    @property
    def one_class(self) -> bool:
        """Without positives or without negatives there is nothing to separate: every figure is None."""
        return self.n_positive == 0 or self.n_negative == 0


class BestF1(NamedTuple):
    """The largest F1 of all thresholds, and the highest threshold that gives it (positive is score >= threshold)."""

    value: float
    threshold: float


class Curve(NamedTuple):
    """Corners of an ROC curve; between two of them it is a straight line."""

    false_positive_rate: Float[np.ndarray, " m"]
    true_positive_rate: Float[np.ndarray, " m"]


def rank(scores: Float[np.ndarray, "*shape"], positive: Bool[np.ndarray, "*shape"]) -> Ranking:
    """Ranks scores of any shape; `positive` marks those that ought to be high.

    Raises ValueError for a NaN, which has no rank.
    """
    positives, negatives = np.sort(scores[positive]), np.sort(scores[~positive])
    for ordered in (positives, negatives):
        if ordered.size and np.isnan(ordered[-1]):  # NaN is sorted to the end
            raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN, and NaN has no rank.")
    is_first = np.ones(positives.size, bool)
    is_first[1:] = positives[1:] != positives[:-1]
    first = np.flatnonzero(is_first)  # of each run of equal scores
    threshold = positives[first]
    return Ranking(
        threshold=threshold[::-1],
        true_positives=(positives.size - first)[::-1],
        false_positives=(negatives.size - np.searchsorted(negatives, threshold, side="left"))[::-1],
        false_positives_above=(negatives.size - np.searchsorted(negatives, threshold, side="right"))[::-1],
        n_positive=positives.size,
        n_negative=negatives.size,
    )


def auroc(ranking: Ranking) -> float | None:
    """Probability that a positive scores above a negative, a tie counting half; None where a class is missing."""
    if ranking.one_class:
        return None
    at_threshold = np.diff(ranking.true_positives, prepend=0)
    below_and_half_of_tied = 2 * ranking.n_negative - ranking.false_positives - ranking.false_positives_above
    won_twice = int(np.sum(at_threshold * below_and_half_of_tied, dtype=np.int64))
    return won_twice / (2 * ranking.n_positive * ranking.n_negative)


def average_precision(ranking: Ranking) -> float | None:
    """Area under the precision-recall curve (AUPR) as the step sum over thresholds; None where a class is missing.

    No line is drawn between two points of the curve: precision is not linear in recall, and the line flatters.
    """
    if ranking.one_class:
        return None
    at_threshold = np.diff(ranking.true_positives, prepend=0)
    precision = ranking.true_positives / (ranking.true_positives + ranking.false_positives)
    return float(np.sum(at_threshold * precision) / ranking.n_positive)


def f1_max(ranking: Ranking) -> BestF1 | None:
    """Best harmonic mean of precision and recall; None where a class is missing.

    The best threshold is always the score of a positive: going on to the next negative only adds a false positive.
    """
    if ranking.one_class:
        return None
    f1 = 2 * ranking.true_positives / (ranking.n_positive + ranking.true_positives + ranking.false_positives)
    best = int(np.argmax(f1))
    return BestF1(float(f1[best]), float(ranking.threshold[best]))


def roc_curve(ranking: Ranking) -> Curve | None:
    """The ROC curve from (0, 0) to (1, 1); None where a class is missing.

    All corners of the curve are in it, and the area under the straight lines between them is `auroc`.
    """
    if ranking.one_class:
        return None
    before = np.concatenate([[0], ranking.true_positives[:-1]])
    false_positives = np.stack([ranking.false_positives_above, ranking.false_positives], axis=1).ravel()
    true_positives = np.stack([before, ranking.true_positives], axis=1).ravel()
    fpr = np.concatenate([[0], false_positives, [ranking.n_negative]]) / ranking.n_negative
    tpr = np.concatenate([[0], true_positives, [ranking.n_positive]]) / ranking.n_positive
    return Curve(fpr, tpr)
