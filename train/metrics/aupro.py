"""AUPRO: area under the per-region overlap curve (Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV).

At one threshold the overlap of a region is the share of its pixels at or above the threshold, and PRO is the mean over
regions, so that a small defect counts as much as a large one. PRO is drawn against the share of defect-free pixels at
or above the threshold (FPR) and integrated up to a limit.

A pixel of region r thus lifts PRO by 1 / (regions x size of r) when the threshold passes its score: PRO is the
true-positive rate with weighted pixels. The area follows exactly from the ranking of all pixels that AUROC needs
anyway. No grid of thresholds is involved.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float

from train.metrics.auroc import Ranking

FPR_LIMIT = 0.3


def count_regions(masks: Bool[np.ndarray, "n h w"]) -> int:
    """Connected areas (8 neighbours) over all masks."""
    return sum(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1 for mask in masks)


def aupro(
    ranking: Ranking,
    maps: Float[np.ndarray, "n h w"],
    masks: Bool[np.ndarray, "n h w"],
    *,
    fpr_limit: float = FPR_LIMIT,
) -> float | None:
    """Area up to `fpr_limit`, divided by it: 1 is perfect; None where no pixel is defective or none is defect-free.

    `ranking` is `rank(maps, masks)`. Between two thresholds the curve is a straight line, so a constant map gives
    `fpr_limit` / 2.
    """
    if ranking.one_class:
        return None
    rise = _rise_of_pro(ranking, maps, masks)
    # Each rise counts over the stretch of the curve to its right. Where negatives are tied with it, it is a ramp.
    limit = fpr_limit * ranking.n_negative
    start = ranking.false_positives_above.astype(np.float64)
    end = ranking.false_positives.astype(np.float64)
    whole = limit - (start + end) / 2
    cut = np.square(limit - start) / (2 * np.maximum(end - start, 1))
    stretch = np.where(end <= limit, whole, np.where(start < limit, cut, 0.0))
    return float(np.sum(rise * stretch) / limit)


def _rise_of_pro(
    ranking: Ranking, maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]
) -> Float[np.ndarray, " k"]:
    """By how much PRO rises at each threshold of the ranking; sums to 1."""
    scores, weights, n_regions = [], [], 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        n_labels, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        region = labels[mask]
        scores.append(anomaly_map[mask])
        weights.append(1.0 / np.bincount(region, minlength=n_labels)[region])
        n_regions += n_labels - 1
    ascending = ranking.threshold[::-1]
    step = np.searchsorted(ascending, np.concatenate(scores))
    rise = np.bincount(step, weights=np.concatenate(weights), minlength=ascending.size)
    return rise[::-1] / n_regions
