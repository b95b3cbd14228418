"""The losses of DeSTSeg's segmentation network (apple/ml-destseg, model/losses.py and train.py), per image."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def focal(logits: Float[Array, "n h w"], mask: Float[Array, "n h w"], gamma: float) -> Float[Array, " n"]:
    """Cross-entropy of each pixel times (1 - what its right answer is given) ^ gamma, unweighted; mean over pixels.

    Lin et al. 2017, RetinaNet, arXiv:1708.02002, eq. 4.
    """
    weight = jnp.exp(gamma * jax.nn.log_sigmoid(jnp.where(mask > 0.5, -logits, logits)))
    return jnp.mean(weight * optax.sigmoid_binary_cross_entropy(logits, mask), axis=(1, 2))


def l1(logits: Float[Array, "n h w"], mask: Float[Array, "n h w"]) -> Float[Array, " n"]:
    """How far the score of a pixel, between 0 and 1, lies from its mask; mean over pixels."""
    return jnp.mean(jnp.abs(jax.nn.sigmoid(logits) - mask), axis=(1, 2))
