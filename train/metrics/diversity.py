"""How different the images of one set are, by distances between their features.

LPIPS (Zhang et al. 2018, arXiv:1801.03924) is a distance between two images: at several depths of a network, features
are scaled to unit length at every place, subtracted, squared, weighted by channel and averaged over places, then summed
over depths. Its weights were fitted to human judgements; without them every channel counts the same, which the authors
call the baseline, and which is not LPIPS. The clustered form is that of few-shot generation (Ojha et al. 2021,
arXiv:2104.06820): each image goes to the real one that it is nearest to, and distances are taken within such clusters,
so that a generator which repeats its training images scores 0 however different these are.
Shape letters: n images, r real images, h x w cells, c channels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

EPSILON = 1e-10


class Diversity(NamedTuple):
    mean: float  # of the pairs' distances
    pairs: int


def unit_length(features: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
    """At every place over the channels."""
    length = np.sqrt(np.sum(features**2, axis=-1, keepdims=True))
    scaled: np.ndarray = features / (length + EPSILON)
    return scaled


def perceptual_distance(
    a: Sequence[Float[np.ndarray, "_n _h _w _c"]], b: Sequence[Float[np.ndarray, "_n _h _w _c"]]
) -> Float[np.ndarray, " n"]:
    """Image by image; one entry of `a` and of `b` per depth, all of unit length."""
    of_depth = [np.mean(np.sum((x - y) ** 2, axis=-1), axis=(1, 2)) for x, y in zip(a, b, strict=True)]
    total: np.ndarray = np.sum(of_depth, axis=0)
    return total


def random_pairs(n: int, count: int, seed: int) -> Int[np.ndarray, "k 2"]:
    """Different images, each pair once; all pairs where there are no more than `count`."""
    first, second = np.triu_indices(n, k=1)
    if len(first) > count:
        chosen = np.random.default_rng(seed).choice(len(first), count, replace=False)
        first, second = first[chosen], second[chosen]
    return np.stack([first, second], axis=1)


def mean_pairwise(
    distance: Callable[[Int[np.ndarray, " k"], Int[np.ndarray, " k"]], Float[np.ndarray, " k"]],
    n: int,
    *,
    pairs: int,
    seed: int = 0,
) -> Diversity | None:
    """Of random pairs of n images; None where there is no pair."""
    chosen = random_pairs(n, pairs, seed)
    if not len(chosen):
        return None
    return Diversity(float(np.mean(distance(chosen[:, 0], chosen[:, 1]))), len(chosen))


def nearest(to_real: Float[np.ndarray, "n r"]) -> Int[np.ndarray, " n"]:
    """The real image that each is nearest to."""
    return np.argmin(to_real, axis=1)


def mean_within_clusters(between: Float[np.ndarray, "n n"], cluster: Int[np.ndarray, " n"]) -> Diversity | None:
    """Mean over the clusters of the mean distance within; those of one image have none. None where all have one."""
    means, pairs = [], 0
    for label in np.unique(cluster):
        members = np.flatnonzero(cluster == label)
        if len(members) < 2:
            continue
        first, second = np.triu_indices(len(members), k=1)
        means.append(between[members[first], members[second]].mean())
        pairs += len(first)
    return Diversity(float(np.mean(means)), pairs) if means else None
