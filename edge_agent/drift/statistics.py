"""What a frame looks like, as a few numbers. Logarithms: a change of the lamp or the gain by 5 % is 0.05 in each."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from edge_agent.cameras.checks import sharpness, thin_out

SHARPNESS_ROWS = 256  # from the middle: every pixel counts there, and a large model size would cost milliseconds

Statistic = Literal["brightness", "red", "blue", "contrast", "sharpness", "score"]


@dataclass(frozen=True)
class Watched:
    """One number of every part."""

    name: Statistic
    worth: float  # the smallest lasting change that someone should hear of, in multiples of `drift.change`
    causes: str  # for the message: what a rise, or a fall, mostly comes from


WATCHED = (
    Watched("brightness", 1.0, "the lamp, exposure, gain or dirt"),
    Watched("red", 1.0, "the lamp's colour or the white balance"),
    Watched("blue", 1.0, "the lamp's colour or the white balance"),
    Watched("contrast", 2.0, "a dirty lens, stray light or gain"),
    Watched("sharpness", 6.0, "focus, a dirty lens or vibration"),
    Watched("score", 0.5, "whatever the model has not seen in training"),  # of the threshold; passes only
)


def look_at(image: np.ndarray, image_score: float) -> np.ndarray:
    """uint8 [h, w, 3] RGB at model size, and its normalised score (NaN: it doesn't count) -> float64 [len(WATCHED)]."""
    sample, skipped = thin_out(image), max(0, image.shape[0] - SHARPNESS_ROWS) // 2
    mean = np.asarray(cv2.mean(sample)[:3])
    _, deviation = cv2.meanStdDev(cv2.cvtColor(sample, cv2.COLOR_RGB2GRAY))
    red, green, blue = np.log(mean + 1.0)  # + 1 grey level: black has a logarithm too
    contrast, sharp = np.log(deviation[0, 0] + 1.0), np.log(sharpness(image[skipped : skipped + SHARPNESS_ROWS]) + 1.0)
    return np.array([np.log(mean.mean() + 1.0), red - green, blue - green, contrast, sharp, image_score])
