"""Masks of defects at model size."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from edge_agent.preprocess import Preprocessing, prepare_mask, read_mask


def load_defect_mask(path: Path, preprocessing: Preprocessing) -> Bool[np.ndarray, "h w"]:
    """What is thinner than a pixel at model size is as wide as one. ImageError where it can't be read."""
    mask = read_mask(path)
    h, w = mask.shape if preprocessing.crop is None else (preprocessing.crop[3], preprocessing.crop[2])
    reach = max(h // preprocessing.height, 1), max(w // preprocessing.width, 1)
    thick = cv2.dilate(mask.astype(np.uint8), np.ones(reach, np.uint8)) > 0
    return prepare_mask(thick, preprocessing)
