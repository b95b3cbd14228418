"""What a segmenter's maps of test images are worth: every figure exact, over all pixels and thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from train.metrics.aupro import aupro
from train.metrics.auroc import auroc, average_precision, rank
from train.metrics.iap import instance_precision


@dataclass(frozen=True)
class Figures:
    """Of normal and defective images; None where all or no pixels are defective."""

    pixel_auroc: float | None
    aupro: float | None
    ap: float | None  # of pixels
    iap: float | None
    iap90: float | None
    image_auroc: float | None  # of each image's largest score
    regions: int
    images: int


def figures_of(maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]) -> Figures:
    ranking = rank(maps, masks)
    instances = instance_precision(ranking, maps, masks)
    return Figures(
        pixel_auroc=auroc(ranking),
        aupro=aupro(ranking, maps, masks),
        ap=average_precision(ranking),
        iap=instances and instances.iap,
        iap90=instances and instances.iap90,
        image_auroc=auroc(rank(maps.max(axis=(1, 2)), np.asarray(masks.any(axis=(1, 2))))),
        regions=instances.regions if instances else 0,
        images=len(maps),
    )


def figures_by_category(
    maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"], categories: Sequence[tuple[str, ...]]
) -> dict[str, Figures]:
    """Of each category's images together with all normal ones."""
    return {
        name: figures_of(maps[among], masks[among])
        for name in sorted({name for shown in categories for name in shown})
        if (among := np.array([not shown or name in shown for shown in categories])).any()
    }
