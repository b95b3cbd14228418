"""How well AdaBLDM tells the noise in held-out images: of normal parts, and of defects pasted on them.

Shape letters: n images.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.loss import noise_error
from train.generators.adabldm.networks import Trained
from train.generators.adabldm.noise_schedule import STEPS
from train.generators.adabldm.players import Inputs, with_noise

SEED = 5  # of steps and noise, the same in every epoch, so that epochs compare

PerImage = Float[Array, " n"]


def validate(model: Trained, inputs: Inputs, key: PRNGKeyArray, config: AdaBLDMConfig) -> dict[str, PerImage]:
    """Mean squared errors of the noise at steps spread over all; `noise_told` is the negative sum."""
    captioned, pairs = inputs
    n = len(captioned.latent)
    step = ((jnp.arange(n) + 0.5) * STEPS / n).astype(jnp.int32)
    for_images, for_pairs = jax.random.split(jax.random.key(SEED))
    of_image, of_pair = (
        with_noise(part.latent, key, step) for part, key in ((captioned, for_images), (pairs, for_pairs))
    )
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), of_image, of_pair)
    words = jnp.concatenate([captioned.words, pairs.words])
    of_normal, alone = jnp.split(noise_error(model.told(both.latent, both.step, words), both.noise), 2)
    told = model.told_by_trimap(of_pair.latent, of_pair.step, pairs.words, pairs.trimap, pairs.empty)
    of_pairs = noise_error(told, of_pair.noise)
    return {
        "noise_told": -(of_normal + of_pairs),
        "noise_of_normal": of_normal,
        "noise_of_pairs": of_pairs,
        "share_by_trimap": jnp.broadcast_to(of_pairs.mean() / alone.mean(), of_pairs.shape),
    }
