"""Name -> detector."""

import difflib

from train.detectors.aesc import AESC
from train.detectors.anogan import ANOGAN
from train.detectors.detector import Detector
from train.detectors.f_anogan import F_ANOGAN
from train.detectors.fastflow import FASTFLOW

DETECTORS: dict[str, Detector] = {detector.name: detector for detector in (AESC, FASTFLOW, ANOGAN, F_ANOGAN)}


def find_detector(name: str) -> Detector:
    """KeyError with a sentence where there is none of that name."""
    if name in DETECTORS:
        return DETECTORS[name]
    near = difflib.get_close_matches(name, DETECTORS, n=1)
    raise KeyError(
        f"{name} is not a detector. " + (f"Did you mean {near[0]}?" if near else f"There are: {', '.join(DETECTORS)}.")
    )
