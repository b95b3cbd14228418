"""Contact sheets: what the generator makes of the same images after every epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.players import draw_noise
from train.generators.defect_gan.sample import paint
from train.pictures import grid

PER_CATEGORY = 3  # rows of a contact sheet


class Sheet(NamedTuple):
    """One row for each image: what of a category is drawn on a normal image that training never sees.

    Shape letters: n rows, s x s pixels.
    """

    normal: UInt8[np.ndarray, "n s s 3"]
    mask: Float[np.ndarray, "n s s"]
    defect: UInt8[np.ndarray, "n s s 3"]
    restored: UInt8[np.ndarray, "n s s 3"]
    category: tuple[str, ...]

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """normal | mask | defect | restored, category after category."""
        grey = np.repeat(np.round(255 * self.mask).astype(np.uint8)[..., None], 3, axis=-1)
        rows = np.stack([self.normal, grey, self.defect, self.restored], axis=1)
        blocks = rows.reshape(len(rows) // PER_CATEGORY, PER_CATEGORY * 4, *rows.shape[2:])
        return grid(blocks.reshape(-1, *rows.shape[2:]), columns=4 * PER_CATEGORY)


def sheet(generator: Any, normal: UInt8[np.ndarray, "_m s s 3"], config: DefectGANConfig) -> Sheet:
    """PER_CATEGORY rows for each category, by one program for all epochs."""
    count = PER_CATEGORY * len(config.categories)
    number = np.arange(count)
    images = normal[number % min(PER_CATEGORY, len(normal))]
    defect, mask, restored = _painted(generator, jnp.asarray(images), config)
    categories = tuple(config.categories[i] for i in number // PER_CATEGORY)
    return Sheet(images, np.asarray(mask), np.asarray(defect), np.asarray(restored), categories)


@nnx.jit(static_argnames="config")
def _painted(
    generator: Any, images: UInt8[Array, "n s s 3"], config: DefectGANConfig
) -> tuple[UInt8[Array, "n s s 3"], Float[Array, "n s s"], UInt8[Array, "n s s 3"]]:
    n, size = images.shape[:2]
    asked = jax.nn.one_hot(jnp.arange(n) // PER_CATEGORY, config.control_channels)
    whole = jnp.broadcast_to(asked[:, None, None], (n, size, size, config.control_channels))
    plain = jnp.zeros_like(whole).at[..., -1].set(1)
    there, back = (draw_noise(jax.random.split(jax.random.key(config.seed + i), n), config) for i in (1, 2))
    painted = paint(generator, images, whole, there, jnp.ones(()), config)
    return painted.images, painted.mask, paint(generator, painted.images, plain, back, jnp.ones(()), config).images
