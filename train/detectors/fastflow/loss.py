"""FastFlow's loss; sheet: "Loss"."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from train.detectors.fastflow.model import Latent


def negative_log_likelihood(latent: Latent) -> Float[Array, " n"]:
    """Nats per image of one scale under a standard normal latent (RealNVP eq. 3), without its constant."""
    return 0.5 * jnp.sum(jnp.square(latent.z), axis=(1, 2, 3)) - jnp.sum(latent.log_det, axis=(1, 2))
