"""What a frame looks like, as a few numbers. Logarithms: a change of the lamp or the gain by 5 % is 0.05 in each."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from edge_agent.cameras.checks import sharpness

Statistic = Literal["brightness", "red", "blue", "contrast", "sharpness", "score"]


@dataclass(frozen=True)
class Watched:
    """One number of every part."""

    name: Statistic
    worth: float  # the smallest lasting change that someone should hear of
    least_slack: float  # half the smallest change to look for, in spreads, where parts vary much by themselves
    causes: str  # for the message: what a rise, or a fall, mostly comes from


WATCHED = (
    Watched("brightness", 0.05, 0.25, "the lamp, exposure, gain or dirt"),
    Watched("red", 0.05, 0.25, "the lamp's colour or the white balance"),
    Watched("blue", 0.05, 0.25, "the lamp's colour or the white balance"),
    Watched("contrast", 0.10, 0.25, "a dirty lens, stray light or gain"),
    Watched("sharpness", 0.30, 0.25, "focus, a dirty lens or vibration"),
    Watched("score", 0.04, 0.50, "whatever the model has not seen in training"),  # of the threshold; passes only
)


def look_at(image: np.ndarray, image_score: float) -> np.ndarray:
    """uint8 [h, w, 3] RGB at model size, and its normalised score (NaN: it doesn't count) -> float64 [len(WATCHED)]."""
    mean = np.asarray(cv2.mean(image)[:3])
    _, deviation = cv2.meanStdDev(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    red, green, blue = np.log(mean + 1.0)  # + 1 grey level: black has a logarithm too
    contrast, sharp = np.log(deviation[0, 0] + 1.0), np.log(sharpness(image) + 1.0)
    return np.array([np.log(mean.mean() + 1.0), red - green, blue - green, contrast, sharp, image_score])
