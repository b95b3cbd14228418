"""AESc's loss and the metric that its recipe watches. Sheet: "Loss"."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_squared_error(reconstruction: Float[Array, "n h w c"], clean: Float[Array, "n h w c"]) -> Float[Array, " n"]:
    """Per image, over pixels and channels; there is no other term."""
    return jnp.mean((reconstruction - clean) ** 2, axis=(1, 2, 3))


def psnr(reconstruction: Float[Array, "n h w c"], clean: Float[Array, "n h w c"]) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio in dB per image, peak 1.0; the validation metric."""
    return -10 * jnp.log10(jnp.maximum(mean_squared_error(reconstruction, clean), 1e-12))
