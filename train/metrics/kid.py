"""Kernel distance between two sets of features, as the KID takes it (Bińkowski et al. 2018, arXiv:1801.01401).

The unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x.y / c + 1)^3, averaged over random
subsets. Unlike the Fréchet distance its expectation does not depend on how many images there are: that of two halves
of one set is 0, and a single estimate may be negative. It is called KID only on the FID's own InceptionV3.
Shape letters: n and m images, c features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DEGREE = 3
SUBSETS = 100
SUBSET_SIZE = 1000


class KernelDistance(NamedTuple):
    mean: float  # over the subsets
    spread: float  # standard deviation over the subsets; overlapping, so it is no error of the mean
    subset_size: int
    subsets: int


def polynomial_kernel(x: Float[np.ndarray, "n c"], y: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "n m"]:
    kernel: np.ndarray = (x @ y.T / x.shape[1] + 1) ** DEGREE
    return kernel


def squared_mmd(x: Float[np.ndarray, "n c"], y: Float[np.ndarray, "m c"]) -> float:
    """Unbiased: pairs of one image with itself are left out."""
    n, m = len(x), len(y)
    within_x, within_y, across = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
    of_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    of_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(of_x + of_y - 2 * across.mean())


def kernel_distance(
    x: Float[np.ndarray, "n c"],
    y: Float[np.ndarray, "m c"],
    *,
    subset_size: int = SUBSET_SIZE,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> KernelDistance:
    """Subsets are drawn without repetition, and are no larger than the smaller set.

    ValueError where a set has fewer than two images.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"Sets of {len(x)} and {len(y)} images can't be compared; at least 2 are needed in each.")
    size = min(subset_size, len(x), len(y))
    generator = np.random.default_rng(seed)
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = [
        squared_mmd(x[generator.choice(len(x), size, replace=False)], y[generator.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found)), size, subsets)
