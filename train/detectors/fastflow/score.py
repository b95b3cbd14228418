"""FastFlow's anomaly map and image score; sheet: "Inference and scoring (exact)".

Shape letters: n images, h x w feature cells or pixels, c channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.detectors.fastflow.model import Latent
from train.detectors.scores import RawScores
from train.mask import Mask
from train.tiling import Tiling


def log_probability(latent: Latent, log_det_weight: float) -> Float[Array, "n h w"]:
    """-1/2 mean_c z^2 per cell; with a weight, plus the mean log-determinant of a channel (not in the paper)."""
    log_p = -0.5 * jnp.mean(jnp.square(latent.z), axis=-1)
    if log_det_weight:
        log_p = log_p + log_det_weight * latent.log_det / latent.z.shape[-1]
    return log_p


def anomaly_map(latents: Sequence[Latent], size: int, log_det_weight: float) -> Float[Array, "n _size _size"]:
    """Mean over scales of 1 - p, each upsampled bilinearly (half-pixel centres).

    p = exp(log_probability) is in (0, 1]. With log-determinants that has no bound; p / (1 + p) takes its place.
    """
    maps = []
    for latent in latents:
        log_p = log_probability(latent, log_det_weight)
        improbable = jax.nn.sigmoid(-log_p) if log_det_weight else 1 - jnp.exp(log_p)
        n = improbable.shape[0]
        maps.append(jax.image.resize(improbable, (n, size, size), "bilinear", antialias=False))
    return jnp.asarray(sum(maps)) / len(maps)


def image_score(anomaly_map: Float[Array, "n h w"], top_share: float, judged: Mask | None = None) -> Float[Array, " n"]:
    """Largest pixel score, or with a share the mean of that share of the (judged) pixels that score highest.

    Pixels that are not judged must score 0, which is the least.
    """
    pixels = anomaly_map.reshape(anomaly_map.shape[0], -1)
    count = max(round(top_share * (pixels.shape[1] if judged is None else int(judged.sum()))), 1)
    if count == 1:
        return pixels.max(axis=1)
    return jax.lax.top_k(pixels, count)[0].mean(axis=1)


def raw_scores(
    latents: Sequence[Latent],
    size: int,
    *,
    log_det_weight: float,
    top_share: float,
    tiling: Tiling | None = None,
    judged: Mask | None = None,
) -> RawScores:
    """Of images of side `size`, pixels; with a tiling, whose tiles have that side, of the images that they cover."""
    scores = anomaly_map(latents, size, log_det_weight)
    if tiling is not None:
        scores = tiling.blend(scores)
    if judged is not None:
        scores = jnp.where(judged, scores, 0)
    return RawScores(image_score(scores, top_share, judged), scores)
