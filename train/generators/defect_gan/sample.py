"""Defect-GAN's generator at work: a defect on a normal image, or a defective image without its defect.

Shape letters: n images, s x s pixels, k control channels, z numbers of noise.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from train.blocks.pixels import to_signed
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.model import Generator
from train.generators.generator import Control, Images, Noise, Painted

LEAST_MASK = 0.01  # below it a pixel is left as it is


def paint(
    weights: Generator,
    images: Images,
    control: Control,
    noise: Noise,
    strength: Float[Array, ""] | Float[Array, " n"],
    config: DefectGANConfig,
) -> Painted:
    """n (1 - s m) + f s m, as bytes; where m is below LEAST_MASK the image's own bytes."""
    levels, mask = laid_over(weights, images, control, noise, strength, config)
    return Painted(jnp.round(levels).astype(jnp.uint8), mask)


def laid_over(
    weights: Generator,
    images: Images,
    control: Control,
    noise: Noise,
    strength: Float[Array, ""] | Float[Array, " n"],
    config: DefectGANConfig,
) -> tuple[Float[Array, "n s s 3"], Float[Array, "n s s"]]:
    """The same before it is rounded: grey levels from 0 to 255, and the mask."""
    x: Any = images.astype(jnp.float32)
    layer = weights(to_signed(x, config.channels), control, noise)
    mask = jnp.where(layer.mask < LEAST_MASK, 0.0, layer.mask)
    mask = mask * jnp.broadcast_to(strength, images.shape[:1])[:, None, None, None]
    foreground = (layer.foreground + 1) * 127.5  # of one channel or three
    return jnp.clip(x * (1 - mask) + foreground * mask, 0, 255), mask[..., 0]
