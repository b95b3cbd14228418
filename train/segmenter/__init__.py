"""A supervised segmenter of defects: the measure of what synthetic images with masks are worth (README.md)."""

from train.segmenter.config import SegmenterConfig
from train.segmenter.system import SEGMENTER

__all__ = ["SEGMENTER", "SegmenterConfig"]
