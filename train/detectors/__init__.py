"""The detectors, and what the loop, the evaluation and the export need of one."""

from train.detectors.detector import Detector
from train.detectors.registry import DETECTORS, find_detector
from train.detectors.scores import RawScores

__all__ = ["DETECTORS", "Detector", "RawScores", "find_detector"]
