"""FastFlow's loss; sheet: "Loss"."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from train.detectors.fastflow.model import Latent


def negative_log_likelihood(latent: Latent, judged: Bool[Array, "n h w"] | None = None) -> Float[Array, " n"]:
    """Nats per image of one scale under a standard normal latent (RealNVP eq. 3), without its constant.

    Under a mask (ours, not the paper's) only its cells are summed over, each with its own part of z and log |det|.
    """
    z, log_det = latent
    if judged is not None:
        z, log_det = jnp.where(judged[..., None], z, 0), jnp.where(judged, log_det, 0)
    return 0.5 * jnp.sum(jnp.square(z), axis=(1, 2, 3)) - jnp.sum(log_det, axis=(1, 2))
