"""Foreground predictor: which pixels of a normal image are the part, learned from a product's normal images alone.

Sheet: "Foreground predictor". Features of a frozen backbone fall into two clusters; the one that rules along the border
is background; a linear discriminant tells the two apart in any image. Without a foreground there is an error, never the
whole image in its place: defects would be learned all over the background (sheet: "Pitfalls" 4).

Shape letters: n images, s x s pixels, h x w cells, c channels, m vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from train.backbones.backbone import Backbone
from train.backbones.pretrained import features
from train.chunks import chunks
from train.data.samples import DataError
from train.progress import Work

SEEN_AT = 320  # pixels, side
MARGIN = 32  # pixels around it, in which the border goes on: else the zeros that convolutions pad with look like a part
STRIDE = 16  # of the backbone's map that is taken, where it has one
FITTED = 64  # images at most; of 320 pixels they give twice the vectors that are clustered
CLUSTERED, DISCRIMINATED = 50_000, 15_000  # vectors at most
RING = 3  # cells along the border
CLEAR = 0.6  # of the ring, that one cluster must have
THRESHOLD = 127 / 255
CLOSING = 5  # pixels, side of the box
LEAST, MOST = 0.01, 0.98  # of an image, that a part may cover
STARTS, ROUNDS = 4, 100  # of the clustering
RIDGE = 1e-6  # of the mean variance, so that features that never differ do no harm
AT_ONCE = 8  # images

Vectors = Float[np.ndarray, "m c"]
Maps = Float[np.ndarray, "n h w c"]
Masks = Bool[Array, "n s s"]

ADVICE = (
    "If it is a texture, or a part that fills the image, set foreground=texture: then defects go anywhere. "
    "Otherwise take images in which the part is seen whole before an even background."
)


class ForegroundError(DataError):
    """The part can't be told from its background; the text says why and what would do."""


class Discriminant(NamedTuple):
    """Of features: below 0 and above 1 is what no image that it was fitted on showed. 1 is the part."""

    direction: Float[Array, " c"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]

    def scaled(self, maps: Float[Array, "n h w c"]) -> Float[Array, "n h w"]:
        return jnp.clip((maps @ self.direction - self.lowest) / (self.highest - self.lowest), 0, 1)


@dataclass(frozen=True)
class Seen:
    """What of a backbone is looked at."""

    backbone: Backbone
    side: int = SEEN_AT  # to which images are scaled

    def maps(self, module: nnx.Module, images: UInt8[Array, "n s s 3"]) -> Float[Array, "n h w c"]:
        """Traceable."""
        n = images.shape[0]
        scaled = jax.image.resize(images.astype(jnp.float32), (n, self.side, self.side, 3), "bilinear")
        around = jnp.pad(scaled, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
        found, cells = features(module, around, self.backbone)[self.tap], MARGIN // self.backbone.taps[self.tap].stride
        inner: Array = found[:, cells:-cells, cells:-cells]
        return inner

    @property
    def input_side(self) -> int:
        """Of the images that the backbone must be built for."""
        return self.side + 2 * MARGIN

    @property
    def tap(self) -> int:
        return min(range(len(self.backbone.taps)), key=lambda k: abs(self.backbone.taps[k].stride - STRIDE))


def fit_foreground(
    seen: Seen, module: nnx.Module, images: UInt8[np.ndarray, "n s s 3"], names: Sequence[str], seed: int
) -> tuple[Discriminant, Bool[np.ndarray, "n s s"]]:
    """Of normal images; and their masks.

    Raises:
        ForegroundError: no part stands out, in all of them or in one.
    """
    maps_of, masks_of = (jax.jit(partial(f, seen)) for f in (Seen.maps, foregrounds))
    fitted = images[np.sort(_drawn(len(images), FITTED, np.random.default_rng(seed)))]
    with Work("looking for the part", len(fitted) + len(images)) as work:

        def all_of(function: Callable[[np.ndarray], Array], images: UInt8[np.ndarray, "_n s s 3"]) -> np.ndarray:
            results = []
            for some in chunks(function, images, AT_ONCE):
                results.append(some)
                work.done(len(some))
            return np.concatenate(results)

        discriminant = discriminate(all_of(partial(maps_of, module), fitted), seed)
        masks = all_of(partial(masks_of, module, discriminant), images)
    check_shares(masks, names)
    return discriminant, masks


def foregrounds(seen: Seen, module: nnx.Module, discriminant: Discriminant, images: UInt8[Array, "n s s 3"]) -> Masks:
    """Traceable, so that nothing is checked here."""
    n, size = images.shape[:2]
    scaled = jax.image.resize(discriminant.scaled(seen.maps(module, images)), (n, size, size), "bilinear")
    return closed(scaled > THRESHOLD)


def whole(images: UInt8[np.ndarray, "n s s 3"]) -> Bool[np.ndarray, "n s s"]:
    """The foreground of textures, where the user says that they are some."""
    return np.ones(images.shape[:3], bool)


def check_shares(masks: Bool[np.ndarray, "n _s _s"], names: Sequence[str]) -> None:
    """
    Raises:
        ForegroundError: names the first image whose foreground is next to nothing, or next to everything.
    """
    for share, name in zip(masks.mean(axis=(1, 2)).tolist(), names, strict=True):
        if not LEAST <= share <= MOST:
            raise ForegroundError(
                f"{name}: the foreground found covers {share:.1%} of the image; a part covers {LEAST:.0%} to "
                f"{MOST:.0%}. {ADVICE}"
            )


def discriminate(maps: Maps, seed: int) -> Discriminant:
    """Clusters, border ring, linear discriminant, scale, all in float64.

    Raises:
        ForegroundError: there are no two clusters, or the border belongs to neither.
    """
    random = np.random.default_rng(seed)
    vectors = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    some = vectors[_drawn(len(vectors), CLUSTERED, random)]
    centres = two_means(some, random)
    is_second = _nearer_to_second(vectors, centres)
    ring = is_second.reshape(maps.shape[:3])[:, _ring(*maps.shape[1:3])]
    rules = float(max(ring.mean(), 1 - ring.mean()))
    if rules < CLEAR:
        raise ForegroundError(
            f"The images' borders are no clear background: of the two kinds of surface found, the one that is more "
            f"frequent there has {rules:.0%} of it, at least {CLEAR:.0%} are needed. {ADVICE}"
        )
    part = is_second != (ring.mean() > 0.5)
    if not part.any():
        raise ForegroundError(f"No part stands out from the background. {ADVICE}")
    chosen = _drawn(len(vectors), DISCRIMINATED, random)
    if len(set(part[chosen].tolist())) < 2:
        raise ForegroundError(f"Next to nothing stands out from the background: {part.mean():.2%} of it. {ADVICE}")
    direction = linear_discriminant(vectors[chosen], part[chosen])
    scores = vectors @ direction
    lowest, highest = (jnp.asarray(limit, jnp.float32) for limit in (scores.min(), scores.max()))
    return Discriminant(jnp.asarray(direction, jnp.float32), lowest, highest)


def two_means(vectors: Vectors, random: np.random.Generator) -> Float[np.ndarray, "2 c"]:
    """k-means (Lloyd 1982) of two clusters, started from distant vectors, the best of STARTS.

    Raises:
        ForegroundError: all vectors are equal.
    """
    best, least = None, np.inf
    for _ in range(STARTS):
        first = vectors[random.integers(len(vectors))]
        distances = np.square(vectors - first).sum(axis=1)
        if not distances.any():
            raise ForegroundError(f"The images show nothing: all of each looks the same. {ADVICE}")
        centres = np.stack([first, vectors[random.choice(len(vectors), p=distances / distances.sum())]])
        for _ in range(ROUNDS):
            second = _nearer_to_second(vectors, centres)
            if second.all() or not second.any():
                break
            moved = np.stack([vectors[~second].mean(axis=0), vectors[second].mean(axis=0)])
            if np.array_equal(moved, centres):
                break
            centres = moved
        spread = float(np.square(vectors - centres[_nearer_to_second(vectors, centres).astype(int)]).sum())
        if spread < least:
            best, least = centres, spread
    assert best is not None
    return best


def linear_discriminant(vectors: Vectors, part: Bool[np.ndarray, " m"]) -> Float[np.ndarray, " c"]:
    """Fisher's: the direction in which two classes lie apart most, by their common covariance."""
    means = np.stack([vectors[~part].mean(axis=0), vectors[part].mean(axis=0)])
    within = vectors - means[part.astype(int)]
    covariance = within.T @ within / len(vectors)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
    direction: np.ndarray = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means[1] - means[0])
    return direction


def closed(masks: Masks) -> Masks:
    """Dilated, then eroded; what lies beyond the frame neither adds nor takes away."""
    box, one = (1, CLOSING, CLOSING), (1, 1, 1)
    wide: Array = jax.lax.reduce_window(masks.astype(jnp.float32), 0.0, jax.lax.max, box, one, "SAME")
    narrow: Array = jax.lax.reduce_window(wide, 1.0, jax.lax.min, box, one, "SAME")
    return narrow > 0.5


def _nearer_to_second(vectors: Vectors, centres: Float[np.ndarray, "2 c"]) -> Bool[np.ndarray, " m"]:
    across = centres[1] - centres[0]
    nearer: np.ndarray = vectors @ across > centres.mean(axis=0) @ across
    return nearer


def _ring(height: int, width: int) -> Bool[np.ndarray, "h w"]:
    ring = np.ones((height, width), bool)
    ring[RING:-RING, RING:-RING] = False
    return ring


def _drawn(count: int, most: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(count)[:most]
