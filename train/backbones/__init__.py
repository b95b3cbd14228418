"""Published networks whose features the detectors read. Frozen: no optimizer sees their arrays."""

from train.backbones.backbone import Backbone, Normalisation, Tap
from train.backbones.registry import BACKBONES, find_backbone

__all__ = ["BACKBONES", "Backbone", "Normalisation", "Tap", "find_backbone"]
