"""How different the images of one set are, by distances between their features.

LPIPS (Zhang et al. 2018, arXiv:1801.03924) is a distance between two images: at several depths of a network, features
are scaled to unit length at every place, subtracted, squared, weighted by channel and averaged over places, then summed
over depths. Its weights were fitted to human judgements; here every channel counts the same, which the authors call the
baseline, and which is not LPIPS. The clustered form is that of few-shot generation (Ojha et al. 2021,
arXiv:2104.06820): each image goes to the real one that it is nearest to, and distances are taken within such clusters,
so that a generator which repeats its training images scores 0 however different these are.
Shape letters: n images, r real images, h x w cells, c channels, d numbers per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

EPSILON = 1e-10


class Diversity(NamedTuple):
    mean: float  # of the pairs' distances
    pairs: int


def embedding(maps: Sequence[Float[np.ndarray, "n _h _w _c"]]) -> Float[np.ndarray, "n d"]:
    """Numbers per image whose squared Euclidean distances are the perceptual ones; a map per depth."""
    flat = []
    for features in maps:
        length = np.sqrt(np.sum(features**2, axis=-1, keepdims=True))
        n, h, w, _ = features.shape
        flat.append((features / (length + EPSILON) / np.sqrt(h * w)).reshape(n, -1))
    return np.concatenate(flat, axis=1)


def squared_distances(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "r d"]) -> Float[np.ndarray, "n r"]:
    squares: np.ndarray = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)[None] - 2 * (x @ y.T)
    return squares.clip(min=0)


def mean_of_pairs(between: Float[np.ndarray, "n n"]) -> Diversity | None:
    """Of all pairs of different images; None where there is no pair."""
    first, second = np.triu_indices(len(between), k=1)
    return Diversity(float(between[first, second].mean()), len(first)) if len(first) else None


def nearest(to_real: Float[np.ndarray, "n r"]) -> Int[np.ndarray, " n"]:
    """The real image that each is nearest to."""
    closest: np.ndarray = np.argmin(to_real, axis=1)
    return closest


def mean_within_clusters(between: Float[np.ndarray, "n n"], cluster: Int[np.ndarray, " n"]) -> Diversity | None:
    """Mean over the clusters of the mean distance within; those of one image have none. None where all have one."""
    found = [mean_of_pairs(between[np.ix_(members, members)]) for members in _members(cluster)]
    several = [diversity for diversity in found if diversity is not None]
    if not several:
        return None
    return Diversity(float(np.mean([d.mean for d in several])), sum(d.pairs for d in several))


def _members(cluster: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " _k"]]:
    return [np.flatnonzero(cluster == label) for label in np.unique(cluster)]
