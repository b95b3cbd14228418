"""From the camera's bytes to what networks take."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def to_unit(images: Array, channels: int) -> Float[Array, "n h w c"]:
    """RGB bytes [n, h, w, 3] -> float32 in [0, 1]; for one channel by the weights of ITU-R BT.601, as OpenCV does."""
    x = images.astype(jnp.float32) / 255
    if channels == 3:
        return x
    return jnp.sum(x * jnp.array([0.299, 0.587, 0.114], jnp.float32), axis=-1, keepdims=True)


def to_signed(images: Array, channels: int) -> Float[Array, "n h w c"]:
    """The same in [-1, 1], which is what tanh gives."""
    return 2 * to_unit(images, channels) - 1
