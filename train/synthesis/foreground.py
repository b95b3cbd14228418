"""Where the part is: what differs from the colour along the image's border.

Right for a part that lies on an even background and is seen whole, or nearly; anything else is refused. Nothing is
learned: Otsu's threshold on the distance from the border's median colour, in CIE L*a*b*.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

LEAST, MOST = 0.02, 0.95  # of the image, that a part may cover
CLEAR_BORDER = 0.92  # of the border's pixels, that must be background
SEPARATION = 0.75  # of the distances' variance, that the two sides of the threshold must explain
SPECK = 0.02  # of the largest piece: smaller ones are dust and no part
FARTHEST = 255.0  # distances beyond it count as this


class NoForeground(ValueError):
    """No part stands out; the message is a part of a sentence that says why."""


def find_foreground(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """True on the part, its holes filled. NoForeground where there is none to be told apart."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    distance = np.linalg.norm(lab - np.median(border, axis=0), axis=-1)
    distance = cv2.GaussianBlur(distance, (0, 0), max(min(image.shape[:2]) / 128, 0.5))
    levels = np.minimum(distance, FARTHEST).astype(np.uint8)
    _, binary = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if (separation := _separation(distance, binary.astype(bool))) < SEPARATION:
        raise NoForeground(
            f"no part stands out from its background: parting the image by colour explains {separation:.0%} of its "
            f"differences, at least {SEPARATION:.0%} are needed"
        )
    part = _whole_pieces(binary)
    share = float(part.mean())
    if not LEAST <= share <= MOST:
        raise NoForeground(f"what stands out covers {share:.1%} of the image; a part covers {LEAST:.0%} to {MOST:.0%}")
    clear = 1 - float(np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]]).mean())
    if clear < CLEAR_BORDER:
        raise NoForeground(
            f"only {clear:.0%} of the image's border is background, at least {CLEAR_BORDER:.0%} are needed to know its "
            "colour"
        )
    return part


def _separation(distance: np.ndarray, above: np.ndarray) -> float:
    """The share of the variance that lies between the two sides (Otsu's criterion, 0 to 1)."""
    total, share = float(distance.var()), float(above.mean())
    if total == 0 or share in (0.0, 1.0):
        return 0.0
    between = share * (1 - share) * float(distance[above].mean() - distance[~above].mean()) ** 2
    return between / total


def _whole_pieces(binary: np.ndarray) -> np.ndarray:
    """Without dust, with holes filled."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = areas[1:].max() if count > 1 else 0
    keep = np.isin(labels, [piece for piece in range(1, count) if areas[piece] >= SPECK * largest])
    contours, _ = cv2.findContours(keep.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled: np.ndarray = cv2.drawContours(np.zeros(keep.shape, np.uint8), contours, -1, 1, cv2.FILLED)
    return filled.astype(bool)
