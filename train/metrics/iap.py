"""IAP: precision over the recall of defects, not of their pixels (Zhang et al. 2023, DeSTSeg, CVPR, arXiv:2211.11317).

A connected area of defective pixels is found at a threshold where more than half of its pixels are at or above it.
Recall is the share of areas found; precision is that of pixels. As the authors compute it (apple/ml-destseg,
model/metrics.py), precision is read at the thresholds at which recall rises, and that of a recall is the best of those
of this recall or a higher one; IAP is its mean over the areas, and IAP90 its value at the first recall of 90 % or more.

An area is found up to one threshold, the score of its middle pixel, so a sort of each area's scores gives every recall;
precision follows from the ranking of all pixels that AUROC needs anyway. No grid of thresholds is involved.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from train.metrics.auroc import Ranking

RECALL_PERCENT = 90


class InstancePrecision(NamedTuple):
    iap: float
    iap90: float
    regions: int


def instance_precision(
    ranking: Ranking, maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]
) -> InstancePrecision | None:
    """1 is perfect; None where no pixel is defective or none is defect-free.

    `ranking` is `rank(maps, masks)`. Areas are told by 8 neighbours, as for AUPRO.
    """
    if ranking.one_class:
        return None
    highest_first = np.sort(_found_up_to(maps, masks))[::-1]
    step = ranking.threshold.size - 1 - np.searchsorted(ranking.threshold[::-1], highest_first)
    true, false = ranking.true_positives[step], ranking.false_positives[step]
    precision = true / (true + false)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # of this recall or a higher one
    n = best.size
    return InstancePrecision(float(best.mean()), float(best[-(-RECALL_PERCENT * n // 100) - 1]), n)


def _found_up_to(maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, " r"]:
    """Of each area, the highest threshold at which more than half of its pixels are at or above it."""
    found = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        n_labels, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        area, scores = labels[mask], anomaly_map[mask]
        order = np.lexsort((-scores, area))  # area by area, highest score first
        size = np.bincount(area, minlength=n_labels)[1:]
        found.append(scores[order][np.cumsum(size) - size + size // 2])
    return np.concatenate(found)
