"""AdaBLDM's loss, per image. Means are the caller's. Shape letters: n images, h x w cells, z latent channels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Latent = Float[Array, "n h w z"]


def noise_error(told: Latent, noise: Latent) -> Float[Array, " n"]:
    """|| epsilon - epsilon_theta ||^2, the mean over all numbers of an image's latent (sheet: Losses); in float32."""
    difference = told.astype(jnp.float32) - noise.astype(jnp.float32)
    return jnp.square(difference).mean(axis=(1, 2, 3))
