"""Generated images beside real ones: distances, what real images are among themselves, and diversity.

A distance between few images is far from 0 even where both sets are real, so it is never given alone: the real images
are cut into halves at random, several times, and the distance between the halves is the floor that no generator can be
expected to pass. Because the Fréchet distance grows as the sets shrink, the generated images are also compared at the
floor's own size: each half of the real ones with as many of the generated ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from train.metrics.diversity import (
    Diversity,
    embedding,
    mean_of_pairs,
    mean_within_clusters,
    nearest,
    squared_distances,
)
from train.metrics.fid import frechet_distance, moments
from train.metrics.kid import SUBSET_SIZE, kernel_distance, squared_mmd
from train.quality.networks import FeatureNetwork

SPLITS = 10
SUBSETS = 50
LEAST_FOR_FLOOR = 4  # real images: two in a half
MOST_FOR_DIVERSITY = 200  # images of a class: their maps are held all at once


class Spread(NamedTuple):
    """Over random splits."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Distances:
    """Of one pair of sets. `matched` is the distance at the size of the floor's halves."""

    n_real: int
    n_generated: int
    frechet: float
    frechet_matched: Spread | None  # None: too few real images for halves
    frechet_floor: Spread | None
    kernel: float
    kernel_spread: float  # over random subsets
    kernel_floor: Spread | None


@dataclass(frozen=True)
class ClassDiversity:
    """Mean perceptual distance between images of one class; None where there is no pair."""

    real: Diversity | None
    generated: Diversity | None
    within_clusters: Diversity | None  # of generated ones around the real image that each is nearest to
    clusters: int


@dataclass(frozen=True)
class Comparison:
    """Figures and what they are called."""

    frechet_name: str
    kernel_name: str
    perceptual_name: str
    weights: str  # where the network's are from
    size: int  # side at which both sets were seen, pixels
    together: Distances
    by_class: Mapping[str, Distances]
    diversity: Mapping[str, ClassDiversity]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Images = Mapping[str, UInt8[np.ndarray, "_n _size _size 3"]]  # by class


def compare(
    real: Images,
    generated: Images,
    network: FeatureNetwork,
    *,
    splits: int = SPLITS,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    on_progress: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """All figures of two sets of the same classes, all images of one size.

    Raises:
        ValueError: a set has fewer than two images.
    """
    of_real = _pooled(network, real, on_progress)
    of_generated = _pooled(network, generated, on_progress)
    diversity = {}
    for name in real:
        diversity[name] = class_diversity(network, real[name], generated[name], seed=seed)
    several = len(real) > 1
    return Comparison(
        network.frechet,
        network.kernel,
        network.perceptual,
        network.weights,
        next(iter(real.values())).shape[1],
        distances(_all(of_real), _all(of_generated), splits=splits, seed=seed),
        {
            name: distances(of_real[name], of_generated[name], splits=splits, seed=seed)
            for name in real
            if several and min(len(of_real[name]), len(of_generated[name])) > 1
        },
        diversity,
        notes,
    )


def _pooled(
    network: FeatureNetwork, images: Images, on_progress: Callable[[int], None]
) -> dict[str, Float[np.ndarray, "_n c"]]:
    found = {}
    for name, some in images.items():
        found[name] = network.pooled(some)
        on_progress(len(some))
    return found


def _all(by_class: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n c"]:
    return np.concatenate(list(by_class.values()))


def distances(
    real: Float[np.ndarray, "n c"], generated: Float[np.ndarray, "m c"], *, splits: int = SPLITS, seed: int = 0
) -> Distances:
    """Of pooled features. ValueError where a set has fewer than two images."""
    size = min(SUBSET_SIZE, max(min(len(real), len(generated)) // 2, 2))
    kernel = kernel_distance(real, generated, subset_size=size, subsets=SUBSETS, seed=seed)
    floors, matched, kernel_floors = [], [], []
    if len(real) >= LEAST_FOR_FLOOR:
        generator = np.random.default_rng(seed)
        for _ in range(splits):
            order = generator.permutation(len(real))
            half, other = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
            of_half = moments(half)
            floors.append(frechet_distance(of_half, moments(other)))
            kernel_floors.append(squared_mmd(half, other))
            if len(generated) >= len(other):
                some = generated[generator.permutation(len(generated))[: len(other)]]
                matched.append(frechet_distance(of_half, moments(some)))
    return Distances(
        n_real=len(real),
        n_generated=len(generated),
        frechet=frechet_distance(moments(real), moments(generated)),
        frechet_matched=_spread(matched),
        frechet_floor=_spread(floors),
        kernel=squared_mmd(real.astype(np.float64), generated.astype(np.float64)),
        kernel_spread=kernel.spread,
        kernel_floor=_spread(kernel_floors),
    )


def _spread(values: list[float]) -> Spread | None:
    return Spread(float(np.mean(values)), float(np.std(values))) if values else None


def class_diversity(
    network: FeatureNetwork,
    real: UInt8[np.ndarray, "n s s 3"],
    generated: UInt8[np.ndarray, "m s s 3"],
    *,
    seed: int = 0,
) -> ClassDiversity:
    """Of at most `MOST_FOR_DIVERSITY` images of each."""
    of_real, of_generated = (embedding(network.maps(_some(images, seed))) for images in (real, generated))
    between = squared_distances(of_generated, of_generated)
    cluster = nearest(squared_distances(of_generated, of_real))
    return ClassDiversity(
        mean_of_pairs(squared_distances(of_real, of_real)),
        mean_of_pairs(between),
        mean_within_clusters(between, cluster),
        len(np.unique(cluster)),
    )


def _some(images: UInt8[np.ndarray, "n s s 3"], seed: int) -> UInt8[np.ndarray, "_k s s 3"]:
    if len(images) <= MOST_FOR_DIVERSITY:
        return images
    return images[np.sort(np.random.default_rng(seed).choice(len(images), MOST_FOR_DIVERSITY, replace=False))]
