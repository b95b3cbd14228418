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
    worth: float  # the smallest lasting change that someone should hear of
    least_slack: float  # half the smallest change to look for, in spreads, where parts vary much by themselves
    causes: str  # for the message: what a rise, or a fall, mostly comes from


# A shift of normal scores by 0.27 spreads doubles a false-reject rate of 1 %, and by 0.21 one of 0.1 %: far less than
# anyone sees. So the scores get a slack of 0.06, to which a reference of 1000 parts adds as much.
WATCHED = (
    Watched("brightness", 0.05, 0.25, "the lamp, exposure, gain or dirt"),
    Watched("red", 0.05, 0.25, "the lamp's colour or the white balance"),
    Watched("blue", 0.05, 0.25, "the lamp's colour or the white balance"),
    Watched("contrast", 0.10, 0.25, "a dirty lens, stray light or gain"),
    Watched("sharpness", 0.30, 0.25, "focus, a dirty lens or vibration"),
    Watched("score", 0.01, 0.06, "whatever the model has not seen in training"),  # of the threshold; passes only
)


def look_at(image: np.ndarray, image_score: float) -> np.ndarray:
    """uint8 [h, w, 3] RGB at model size, and its normalised score (NaN: it doesn't count) -> float64 [len(WATCHED)]."""
    sample, skipped = thin_out(image), max(0, image.shape[0] - SHARPNESS_ROWS) // 2
    mean = np.asarray(cv2.mean(sample)[:3])
    _, deviation = cv2.meanStdDev(cv2.cvtColor(sample, cv2.COLOR_RGB2GRAY))
    red, green, blue = np.log(mean + 1.0)  # + 1 grey level: black has a logarithm too
    contrast, sharp = np.log(deviation[0, 0] + 1.0), np.log(sharpness(image[skipped : skipped + SHARPNESS_ROWS]) + 1.0)
    return np.array([np.log(mean.mean() + 1.0), red - green, blue - green, contrast, sharp, image_score])
