"""The losses of f-AnoGAN's three players. Sheet: "Losses" and "Training recipe"."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from train.detectors.f_anogan.model import Images, Judged

PerImage = Float[Array, " n"]


def critic_loss(good: PerImage, drawn: PerImage, penalty: PerImage, weight: float) -> PerImage:
    """WGAN-GP: good parts high, drawn ones low, slope 1 between them."""
    return drawn - good + weight * penalty


def gradient_penalty(
    value_of: Callable[[Images], PerImage], good: Images, drawn: Images, key: PRNGKeyArray
) -> PerImage:
    """(|slope of the critic| - 1)^2 at a random point between a good part and a drawn one."""
    share = jax.random.uniform(key, (good.shape[0], 1, 1, 1))
    between = good + share * (drawn - good)
    slope = jax.grad(lambda x: value_of(x).sum())(between)
    steepness = jnp.sqrt(jnp.square(slope).sum(axis=(1, 2, 3)) + 1e-12)  # the root of 0 has no gradient
    return jnp.square(steepness - 1)


def generator_loss(drawn: PerImage) -> PerImage:
    return -drawn


def encoder_loss(x: Images, of_x: Judged, again: Images, of_again: Judged, w_feature: float) -> PerImage:
    """izi_f: mean squared residual of pixels and, weighted by kappa, of features. It is the anomaly score too."""
    pixels = jnp.square(x - again).mean(axis=(1, 2, 3))
    return pixels + w_feature * jnp.square(of_x.feature - of_again.feature).mean(axis=1)
