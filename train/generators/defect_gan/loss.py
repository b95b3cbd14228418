"""Defect-GAN's losses, per image (sheet: Losses, seed equations 5 to 12). Weights and means are the caller's.

Shape letters: n images, h x w pixels, c channels, k categories and, last, normal.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.generators.defect_gan.config import DefectGANConfig

PerImage = Float[Array, " n"]
Images = Float[Array, "n h w c"]
Masks = Float[Array, "n h w 1"]


def adversarial_of_critic(real: PerImage, drawn: PerImage, kind: str) -> PerImage:
    """What the critic lessens: D(fake) - D(real), which replaces eq. 5; or eq. 5 itself, negative (kind "log")."""
    if kind == "wgan_gp":
        return drawn - real
    return jax.nn.softplus(-real) + jax.nn.softplus(drawn)  # -log D(real) - log(1 - D(fake)), D a sigmoid


def adversarial_of_generator(drawn: PerImage, kind: str) -> PerImage:
    """-D(fake); or, for eq. 5, -log D(fake): its non-saturating form."""
    return -drawn if kind == "wgan_gp" else jax.nn.softplus(-drawn)


def gradient_penalty(gradient: Images) -> PerImage:
    """(norm of the critic's gradient at x~, over all pixels and channels, - 1) squared."""
    squares = jnp.square(gradient).sum(axis=(1, 2, 3))
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1)  # the root has no gradient at 0


def classification(logits: Float[Array, "n k"], labels: Float[Array, "n k"], *, exclusive: bool) -> PerImage:
    """-log D_cls(c | image), eqs. 6 and 7: cross-entropy; where categories may meet, binary ones, summed."""
    if exclusive:
        return -(labels * jax.nn.log_softmax(logits)).sum(axis=1)
    return (jax.nn.softplus(logits) - labels * logits).sum(axis=1)


def reconstruction(image: Images, again: Images) -> PerImage:
    """Mean |n - n^|, eq. 8."""
    return jnp.abs(image - again).mean(axis=(1, 2, 3))


def mask_cycle(there: Masks, back: Masks) -> PerImage:
    """Mean |m_d - m_n^|, eq. 9: what was changed is what is changed back."""
    return jnp.abs(there - back).mean(axis=(1, 2, 3))


def mask_size(there: Masks, back: Masks) -> PerImage:
    """Mean m_d + mean m_n^, eq. 10: little is changed."""
    return there.mean(axis=(1, 2, 3)) + back.mean(axis=(1, 2, 3))


def critic_loss(adversarial: PerImage, penalty: PerImage, class_real: PerImage, config: DefectGANConfig) -> PerImage:
    """L_D, eq. 11."""
    return adversarial + config.w_gradient * penalty + config.w_class_real * class_real


def generator_loss(
    adversarial: PerImage,
    class_drawn: PerImage,
    rec: PerImage,
    cycle: PerImage,
    size: PerImage,
    size_weight: float | Float[Array, ""],
    config: DefectGANConfig,
) -> PerImage:
    """L_G, eq. 12. `size_weight` is w_mask_size as far as it has risen."""
    drawn = adversarial + config.w_class_drawn * class_drawn + config.w_reconstruction * rec
    return drawn + config.w_mask_cycle * cycle + size_weight * size


def risen(weight: float, updates: Float[Array, ""], total: int, share: float) -> Float[Array, ""]:
    """A weight that rises from 0 in the first `share` of all updates (sheet: Pitfalls 1)."""
    rise = share * total
    return weight * (jnp.minimum(1.0, updates / rise) if rise >= 1 else jnp.ones_like(updates))
