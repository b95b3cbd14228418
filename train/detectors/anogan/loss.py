"""The losses of AnoGAN: of its two players, and of the search for z. Sheet: "Losses"."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.detectors.anogan.model import Images, Judged
from train.detectors.anogan.settings import Distance, Inversion

PerImage = Float[Array, " n"]


def discriminator_loss(good: PerImage, drawn: PerImage) -> PerImage:
    """Cross-entropy of the logits: good parts are to be called good, drawn ones not."""
    return jax.nn.softplus(-good) + jax.nn.softplus(drawn)


def generator_loss(drawn: PerImage) -> PerImage:
    """Non-saturating: that drawn parts be called good."""
    return jax.nn.softplus(-drawn)


def apart(a: Float[Array, "n ..."], b: Float[Array, "n ..."], distance: Distance) -> PerImage:
    """Mean absolute or squared difference of each image."""
    difference = jnp.abs(a - b) if distance == "l1" else jnp.square(a - b)
    return difference.mean(axis=tuple(range(1, difference.ndim)))


def mapping_loss(x: Images, of_x: Judged, drawn: Images, of_drawn: Judged, settings: Inversion) -> PerImage:
    """L(z) = (1 - lambda) R + lambda D: residual between image and G(z), and between their features."""
    residual = apart(x, drawn, settings.distance)
    discrimination = apart(of_x.feature, of_drawn.feature, settings.distance)
    return settings.w_residual * residual + settings.w_feature * discrimination
