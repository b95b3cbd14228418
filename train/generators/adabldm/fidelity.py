"""Is the background the normal image's, and is the change where the mask is? Of bytes, as they are written.

Sheet: "Evaluation protocol", gates (a) to (c). Shape letters: s x s pixels.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from train.metrics.auroc import auroc, rank

Image = UInt8[np.ndarray, "s s 3"]
LEAST_PSNR, MOST_ERROR_LEFT, LEAST_RATIO, LEAST_AUROC = 35.0, 1 / 3, 5.0, 0.95  # of the gates


class Fidelity(NamedTuple):
    """Of one image; grey levels from 0 to 1. None where a mask covers nothing, or everything."""

    psnr_before: float | None  # outside the mask, before the adaptation; decibels
    psnr: float | None
    error_before: float | None  # mean |x* - x_OK| there
    error: float | None
    change_ratio: float | None  # mean |x* - x_OK| inside the mask / outside
    auroc: float | None  # of |x* - x_OK| against the mask

    @property
    def gates(self) -> dict[str, bool]:
        """Which of the gates it passes; an unknown figure passes none."""
        left = None if self.error is None or not self.error_before else self.error / self.error_before
        return {
            "psnr": self.psnr is not None and self.psnr >= LEAST_PSNR,
            "error_left": left is not None and left <= MOST_ERROR_LEFT,
            "change_ratio": self.change_ratio is not None and self.change_ratio >= LEAST_RATIO,
            "auroc": self.auroc is not None and self.auroc >= LEAST_AUROC,
        }


def fidelity_of(normal: Image, before: Image, image: Image, mask: Bool[np.ndarray, "s s"]) -> Fidelity:
    """`before` is the image as it was decoded before the adaptation."""
    change = np.abs(image.astype(np.float64) - normal).mean(axis=-1) / 255
    inside, outside = (float(change[part].mean()) if part.any() else None for part in (mask, ~mask))
    ratio = None if inside is None or outside is None else inside / max(outside, 1e-9)
    return Fidelity(
        psnr_before=_psnr(normal, before, ~mask),
        psnr=_psnr(normal, image, ~mask),
        error_before=_error(normal, before, ~mask),
        error=outside,
        change_ratio=ratio,
        auroc=auroc(rank(change, mask)),
    )


def rounded(fidelity: Fidelity, digits: int = 4) -> dict[str, float | None]:
    """For a file: so many significant digits."""
    return {name: None if value is None else float(f"{value:.{digits}g}") for name, value in fidelity._asdict().items()}


def _psnr(normal: Image, image: Image, where: Bool[np.ndarray, "s s"]) -> float | None:
    if not where.any():
        return None
    square = np.square((image.astype(np.float64) - normal)[where] / 255).mean()
    return float(-10 * np.log10(max(square, 1e-12)))


def _error(normal: Image, image: Image, where: Bool[np.ndarray, "s s"]) -> float | None:
    if not where.any():
        return None
    found: Float[np.ndarray, ""] = np.abs((image.astype(np.float64) - normal)[where] / 255).mean()
    return float(found)
