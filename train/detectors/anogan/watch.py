"""What can be seen of a GAN while it trains: how near and how varied its images are, and who is winning.

Shape letters: n images, h x w pixels, c channels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DIRECTIONS = 64  # on which images are compared
COLLAPSED = 0.3  # of the good images' spread
WON = 0.02  # probability on the wrong side below which a discriminator has won
RUN_AWAY = 20.0  # nats; a generator at chance has 0.7


def closeness(good: Float[Array, "n ..."], drawn: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Minus the sliced Wasserstein distance: 0 where both sets are spread alike. One value per rank, to be averaged."""
    n, size = good.shape[0], good[0].size
    directions = jax.random.normal(jax.random.key(0), (size, DIRECTIONS)) / jnp.sqrt(size)
    ranked = [jnp.sort(images.reshape(n, -1) @ directions, axis=0) for images in (good, drawn)]
    return -jnp.abs(ranked[0] - ranked[1]).mean(axis=1)


def spread(good: Float[Array, "n ..."], drawn: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """How much drawn images differ among themselves, against good ones: 1 is alike, 0 one image again and again."""
    ratio = drawn.std(axis=0).mean() / jnp.maximum(good.std(axis=0).mean(), 1e-6)
    return jnp.full(good.shape[0], ratio)


def sentences(figures: Mapping[str, float]) -> tuple[str, ...]:
    """What a person should know of an epoch's figures."""
    said = []
    if figures.get("spread", 1.0) < COLLAPSED:
        said.append(
            f"drawn images differ among themselves {figures['spread']:.2f} times as much as held-out good ones: the "
            "generator has collapsed to few images, so good parts will look abnormal. Try more epochs, a smaller "
            "learning_rate, or more images."
        )
    good, drawn = figures.get("good_probability", 0.5), figures.get("drawn_probability", 0.5)
    if good > 1 - WON and drawn < WON:
        said.append(
            f"the discriminator calls good parts good with {good:.3f} and drawn ones with {drawn:.3f}: it tells all "
            "apart, and the generator learns little from it. Try a smaller learning_rate or fewer filters."
        )
    if (loss := figures.get("generator_loss", 0.0)) > RUN_AWAY:
        said.append(f"the generator's loss is {loss:.1f}, that of a generator at chance 0.7: the two have run apart.")
    return tuple(said)
