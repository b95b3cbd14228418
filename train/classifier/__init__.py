"""A classifier of defects: the measure of what synthetic images are worth (README.md)."""

from train.classifier.config import ClassifierConfig
from train.classifier.system import CLASSIFIER

__all__ = ["CLASSIFIER", "ClassifierConfig"]
