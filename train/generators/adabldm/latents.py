"""Images encoded, and latents as the denoiser expects them: of mean 0 and deviation 1 in every channel.

Stable Diffusion's latents are scaled by a published number, TAESD's come scaled. TAEF2's do neither: the deviation of
its channels is 0.3 to 1.3 on real parts (README), where the noise schedule is made for 1.
Shape letters: n images, s x s pixels, h x w latent cells, z latent channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.blocks.pixels import to_signed
from train.chunks import in_chunks
from train.generators.adabldm.autoencoder import Autoencoder, Images, Latent

AT_ONCE = 8  # images encoded
LEARNED_FROM = 64  # images, at most
LEAST = 0.01  # of the largest deviation: a channel that hardly varies is not blown up


class StandardisedAutoencoder(nnx.Module):
    """Another one whose latents are shifted and scaled, channel by channel."""

    def __init__(self, inner: Autoencoder, mean: Float[np.ndarray, " z"], deviation: Float[np.ndarray, " z"]):
        self.inner = inner
        self.mean, self.deviation = nnx.Param(jnp.asarray(mean)), nnx.Param(jnp.asarray(deviation))

    def encode(self, images: Images) -> Latent:
        return (self.inner.encode(images) - self.mean[...]) / self.deviation[...]

    def decode(self, latent: Latent) -> Images:
        return self.inner.decode(latent * self.deviation[...] + self.mean[...])


def standardised(autoencoder: Autoencoder, images: UInt8[np.ndarray, "n s s 3"], seed: int) -> StandardisedAutoencoder:
    """By mean and deviation of these images' latents, or of `LEARNED_FROM` of them drawn by the seed."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(images))[:LEARNED_FROM])
    latents = encoded(autoencoder, images[drawn]).astype(np.float64)
    mean, deviation = latents.mean(axis=(0, 1, 2)), latents.std(axis=(0, 1, 2))
    deviation = np.maximum(deviation, LEAST * deviation.max())
    return StandardisedAutoencoder(autoencoder, mean.astype(np.float32), deviation.astype(np.float32))


def encoded(autoencoder: Autoencoder, images: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, "n h w z"]:
    latents: np.ndarray = in_chunks(partial(_compiled_encode, autoencoder), images, AT_ONCE)
    return latents


@jax.jit
def _compiled_encode(autoencoder: Autoencoder, images: UInt8[Array, "n s s 3"]) -> Float[Array, "n h w z"]:
    latent: Array = autoencoder.encode(to_signed(images, 3))
    return latent
