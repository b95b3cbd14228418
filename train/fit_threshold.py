"""Thresholds fitted on held-out good images: no defect is needed, and what their number supports is stated.

The image threshold is an order statistic, as in split conformal prediction (Vovk et al. 2005, Lei et al. 2018): if a
good part from the line is exchangeable with the n held-out ones, it scores above their k-th smallest score with
probability at most (n + 1 - k) / (n + 1), whatever the distribution. k = ceil((n + 1)(1 - a)) is the smallest that
keeps this at or below the rate a that was asked for. Where n is too small for that (k > n), the largest score is taken,
which supports 1 / (n + 1) and no less.

A part is rejected if its score is greater than the threshold. Thresholds are scores that occurred, never interpolated,
so they are exact in float32 and dividing by them keeps the order around 1.0.
"""

import math

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel

from train.metrics.intervals import exceedance_interval, percent

TARGET_FALSE_REJECT_RATE = 0.01
PIXEL_QUANTILE = 0.999
MIN_HELD_OUT = 4  # below it, more than one good part in five could be rejected and nobody would know


class ThresholdError(ValueError):
    """No threshold can be fitted; the message says why and what to do."""


class Thresholds(BaseModel, extra="forbid", frozen=True):
    """Limits in raw score units and what they rest on; the fields are those of edge_agent.bundle.Thresholds."""

    image: float  # an image is rejected if its raw image score is greater
    pixel: float  # a pixel is marked if its raw pixel score is greater
    target_false_reject_rate: float  # asked for
    supported_false_reject_rate: float  # expected, at most, from this many held-out images
    false_reject_rate_interval: tuple[float, float]  # 95 %, over the draw of the held-out images
    pixel_quantile: float  # share of held-out good pixels at or below `pixel`
    n_held_out: int
    rule: str  # how the thresholds came about, in sentences


def fit_thresholds(
    image_scores: Float[np.ndarray, " n"],
    anomaly_maps: Float[np.ndarray, "n h w"],
    *,
    target_false_reject_rate: float = TARGET_FALSE_REJECT_RATE,
    pixel_quantile: float = PIXEL_QUANTILE,
) -> Thresholds:
    """Fits both thresholds on raw scores of good images that were not trained on.

    Raises ThresholdError where a threshold would be meaningless: too few images, scores that are not finite or
    negative, a detector that gives every image the same score, maps of zeros.
    """
    if not 0 < target_false_reject_rate < 1:
        raise ThresholdError(
            f"The false-reject rate to aim at is {target_false_reject_rate}; it must lie between 0 and 1."
        )
    if not 0 < pixel_quantile < 1:
        raise ThresholdError(f"The pixel quantile is {pixel_quantile}; it must lie between 0 and 1.")
    _check(image_scores, anomaly_maps)
    n = len(image_scores)
    position = min(_position(n, target_false_reject_rate), n)
    image, image_rule = _image_threshold(image_scores, position, target_false_reject_rate)
    pixel, pixel_rule = _pixel_threshold(anomaly_maps, pixel_quantile)
    return Thresholds(
        image=image,
        pixel=pixel,
        target_false_reject_rate=target_false_reject_rate,
        supported_false_reject_rate=(n + 1 - position) / (n + 1),
        false_reject_rate_interval=exceedance_interval(position, n),
        pixel_quantile=pixel_quantile,
        n_held_out=n,
        rule=f"{image_rule} {pixel_rule}",
    )


def images_needed(target_false_reject_rate: float) -> int:
    """The smallest number of held-out images that supports a false-reject rate."""
    return math.ceil(1 / target_false_reject_rate - 1)


def _position(n: int, rate: float) -> int:
    """Which of n sorted scores, counted from 1, keeps the false-reject rate; n + 1 if none does."""
    return math.ceil((n + 1) * (1 - rate) - 1e-9)  # 250 x (1 - 0.172) is 207, in floating point a little more


def _check(image_scores: np.ndarray, anomaly_maps: np.ndarray) -> None:
    n = len(image_scores)
    if n < MIN_HELD_OUT:
        raise ThresholdError(
            f"{n} held-out good image{'s are' if n != 1 else ' is'} too few to fit a threshold on; at least "
            f"{MIN_HELD_OUT} are needed, and {images_needed(TARGET_FALSE_REJECT_RATE)} for a false-reject rate of 1 %. "
            "Add good images to the training folder."
        )
    for name, scores in (("image", image_scores), ("pixel", anomaly_maps)):
        if not np.isfinite(scores).all():
            bad = np.unique(np.nonzero(~np.isfinite(scores))[0]).size
            raise ThresholdError(
                f"The {name} scores of {bad} of {n} held-out good images are not finite numbers. The detector is "
                "broken: look at its training log and train again."
            )
        if scores.min() < 0:
            raise ThresholdError(
                f"The lowest {name} score of the held-out good images is {scores.min():.6g}; raw scores must not be "
                "negative. The detector's scoring is wrong."
            )
    if image_scores.min() == image_scores.max():
        raise ThresholdError(
            f"All {n} held-out good images have the same score, {image_scores[0]:.6g}. Either they are one image, or "
            "the detector ignores its input: look at the images and at the training log."
        )


def _image_threshold(image_scores: np.ndarray, position: int, target: float) -> tuple[float, str]:
    n = len(image_scores)
    ordered = np.sort(image_scores)
    threshold = float(ordered[position - 1])
    if threshold == 0:
        raise ThresholdError(
            f"{position} of {n} held-out good images score 0, which cannot be a threshold. The detector gives most "
            "images no score at all: look at its training log."
        )
    supported = (n + 1 - position) / (n + 1)
    low, high = exceedance_interval(position, n)
    which = "largest" if position == n else f"{_ordinal(n + 1 - position)} largest"
    rule = (
        f"The image threshold is the {which} score of {n} held-out good images, so a good part is rejected with a "
        f"probability of at most {percent(supported)}"
    )
    if _position(n, target) > n:
        rule += f" ({percent(target)} was asked for, which takes {images_needed(target)} held-out images)"
    return threshold, f"{rule}; with 95 % confidence the rate lies between {percent(low)} and {percent(high)}."


def _pixel_threshold(anomaly_maps: np.ndarray, quantile: float) -> tuple[float, str]:
    pixels = anomaly_maps.ravel()
    position = max(math.ceil(quantile * pixels.size), 1)
    threshold = float(np.partition(pixels, position - 1)[position - 1])
    rule = f"The pixel threshold is the {percent(quantile)} quantile of their pixel scores."
    if threshold > 0:
        return threshold, rule
    # Maps that are exactly zero nearly everywhere, such as rounded variances.
    if not (positive := pixels[pixels > 0]).size:
        raise ThresholdError(
            "Every pixel of every held-out good image scores 0, so no pixel threshold can be fitted. The detector "
            "ignores its input: look at the training log."
        )
    share = percent(1 - positive.size / pixels.size)
    return float(
        positive.min()
    ), f"The pixel threshold is their smallest pixel score above 0, as {share} of them are 0."


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
