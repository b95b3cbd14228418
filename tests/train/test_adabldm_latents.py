import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.generators.adabldm.latents import LEAST, encoded, standardised


class Halved(nnx.Module):
    """A stand-in for an autoencoder, with a trained array: six numbers of every 2 x 2 pixels, some far from 0."""

    def __init__(self):
        self.factor = nnx.Param(jnp.asarray([3.0, 0.2, 0.0]))

    def encode(self, images):
        cells = images[:, ::2, ::2] * self.factor[...] + 5
        return jnp.concatenate([cells, images[:, 1::2, 1::2]], axis=-1)

    def decode(self, latent):
        return latent[..., 3:].repeat(2, axis=1).repeat(2, axis=2)


def drawn(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def test_latents_have_mean_0_and_deviation_1_in_every_channel_that_varies():
    images = drawn(20)
    latents = encoded(standardised(Halved(), images, 0), images)
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2)), [1, 1, 0, 1, 1, 1], rtol=1e-5)


def test_decoding_undoes_it():
    images = drawn(9)
    autoencoder = standardised(Halved(), images, 0)
    latents, plain = (jnp.asarray(encoded(one, images)) for one in (autoencoder, Halved()))
    np.testing.assert_allclose(autoencoder.decode(latents), Halved().decode(plain), atol=1e-5)


def test_a_channel_that_hardly_varies_is_not_blown_up():
    deviation = np.asarray(standardised(Halved(), drawn(20), 0).deviation[...])
    np.testing.assert_allclose(deviation[2], LEAST * deviation.max(), rtol=1e-6)


def test_many_images_are_drawn_from_by_the_seed():
    images = drawn(100)
    first, again, other = (np.asarray(standardised(Halved(), images, seed).mean[...]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
