"""Fréchet distance between two sets of features, as the FID takes it (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

It is called FID only where the features are those of the FID's own InceptionV3. With few images it is biased upwards,
the more so the fewer: two halves of one set are not at distance 0, so a distance says something only beside theirs.
Shape letters: n images, c features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """What the distance knows of a set."""

    mean: Float[np.ndarray, " c"]
    covariance: Float[np.ndarray, "c c"]  # unbiased: over n - 1
    n: int


def moments(features: Float[np.ndarray, "n c"]) -> Moments:
    """ValueError where there are fewer than two images, which have no covariance, or features that are not finite."""
    n = len(features)
    if n < 2:
        raise ValueError(f"{n} image{'' if n == 1 else 's'} can't be compared as a set; at least 2 are needed.")
    if not np.isfinite(features).all():
        raise ValueError(f"Of {n} images some features are not finite numbers.")
    exact = features.astype(np.float64)
    mean = exact.mean(axis=0)
    centred = exact - mean
    return Moments(mean, centred.T @ centred / (n - 1), n)


def frechet_distance(a: Moments, b: Moments) -> float:
    """At least 0, up to rounding; in squared units of the features.

    C_1 C_2 has the eigenvalues of the symmetric R C_2 R with R = C_1^(1/2), so no root of a general matrix is taken:
    those of sets with fewer images than features are singular, and there it fails.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ b.covariance @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    apart = float(np.sum((a.mean - b.mean) ** 2))
    return apart + float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)
