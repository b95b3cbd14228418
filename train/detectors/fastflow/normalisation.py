"""What happens to backbone features before the flow; sheet: "Backbone", pitfall 2 and "Leads".

Shape letters: n images, h x w feature cells, c channels (channels last).
"""

from collections.abc import Iterable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

Normalisation = Literal["none", "layer_norm", "layer_norm_affine", "standardise", "whiten"]

Maps = Float[Array, "n h w c"]
LAYER_NORM_EPSILON = 1e-5  # PyTorch's
RIDGE = 1e-4  # of the mean variance, added to each; directions without variance are not blown up to noise


class Statistic(nnx.Variable):
    """Measured on the training features before the first step; never trained, part of every checkpoint."""


class Normalise(nnx.Module):
    """One scale's features, normalised.

    none               as they come (backbones that end in a norm of their own)
    layer_norm         over all cells and channels of an image, without parameters
    layer_norm_affine  the same with a trained weight and bias per element, as in the public ports; its log-determinant
                       is not counted there, nor here, and it ties a checkpoint to one image size
    standardise        per channel, by mean and variance of the training features
    whiten             by their mean and full covariance: z = (x - mean) W with W W^T the inverse covariance (PCA)

    Under a mask, statistics are those of judged cells, whether of one image or of all.
    """

    def __init__(self, kind: Normalisation, shape: tuple[int, int, int]):
        self.kind = kind
        channels = shape[-1]
        if kind == "layer_norm_affine":
            self.weight = nnx.Param(jnp.ones(shape, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(shape, jnp.float32))
        if kind in ("standardise", "whiten"):
            self.mean = Statistic(jnp.zeros((channels,), jnp.float32))
            self.matrix = Statistic(jnp.eye(channels, dtype=jnp.float32))

    @property
    def is_measured(self) -> bool:
        return self.kind in ("standardise", "whiten")

    def __call__(self, x: Maps, judged: Bool[Array, "n h w"] | None = None) -> Maps:
        if self.kind == "none":
            return x
        if self.kind in ("standardise", "whiten"):
            matrix = self.matrix[...]
            centred = x - self.mean[...]
            return centred * jnp.diagonal(matrix) if self.kind == "standardise" else centred @ matrix
        counted = None if judged is None else judged[..., None]
        mean = x.mean(axis=(1, 2, 3), keepdims=True, where=counted)
        variance = jnp.square(x - mean).mean(axis=(1, 2, 3), keepdims=True, where=counted)
        x = (x - mean) * (1 / jnp.sqrt(variance + LAYER_NORM_EPSILON))
        return x * self.weight[...] + self.bias[...] if self.kind == "layer_norm_affine" else x

    def measure(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        """Takes over mean [c] and covariance [c, c] of the training features, float64."""
        ridge = RIDGE * np.trace(covariance) / len(covariance)
        if self.kind == "standardise":
            matrix = np.diag(1 / np.sqrt(np.diag(covariance) + ridge))
        else:
            variances, directions = np.linalg.eigh(covariance)
            matrix = directions / np.sqrt(np.maximum(variances, 0) + ridge)
        self.mean[...] = jnp.asarray(mean, jnp.float32)
        self.matrix[...] = jnp.asarray(matrix, jnp.float32)


def moments(batches: Iterable[Any]) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c c"]]:
    """Mean and covariance over all cells [..., c] of some feature maps at a time, accumulated in float64."""
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for batch in batches:
        cells = np.asarray(batch, np.float64).reshape(-1, batch.shape[-1])
        count, total, products = count + len(cells), total + cells.sum(0), products + cells.T @ cells
    mean = total / count
    return mean, products / count - np.outer(mean, mean)
