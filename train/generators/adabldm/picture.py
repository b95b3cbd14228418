"""Contact sheets: what the networks make of the same held-out pairs after every epoch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.networks import Trained
from train.generators.adabldm.noise_schedule import noise_schedule, predicted_latent
from train.generators.adabldm.players import Pasted, with_noise
from train.generators.adabldm.sampler import Asked, Held, Sampling, sample
from train.generators.adabldm.stages import Stages
from train.generators.adabldm.weights import AdaBLDMWeights
from train.pictures import grid, to_bytes

ROWS = 4
NOISE_STREAM = 1  # added to the run's seed
LOOKED_THROUGH = (250, 500, 750)  # training steps
QUICKLY = Stages(10, 0, 0)  # steps of a sample that is held to nothing


def sheet(autoencoder: Any, pairs: Pasted, model: Trained, config: AdaBLDMConfig) -> UInt8[np.ndarray, "h w 3"]:
    """Pair | trimap | predicted from three depths of noise | sampled of noise alone in ten steps; all decoded."""
    chosen = np.unique(np.linspace(0, len(pairs.latent) - 1, ROWS).astype(int))
    some: Pasted = jax.tree.map(lambda x: x[jnp.asarray(chosen)], pairs)
    predicted = _predicted(model, some, config.seed + NOISE_STREAM)
    networks = AdaBLDMWeights(autoencoder, None, model.denoiser, model.trimap_encoder, None, None, {})
    asked = Asked(some.trimap, *_contexts(model, some))
    nothing = Held(
        jnp.zeros((*some.trimap.shape, 3)), some.latent, some.trimap, jnp.zeros(some.latent.shape[:3])
    )  # no stage holds it to anything
    keys = jax.random.split(jax.random.key(config.seed), len(chosen))
    in_turn = jax.default_backend() == "cpu"
    sampled = sample(networks, asked, nothing, keys, Sampling(QUICKLY, config.guidance), in_turn=in_turn).latent
    columns = [_decoded(autoencoder, latent) for latent in (some.latent, *predicted, sampled)]
    trimaps = to_bytes(2 * some.trimap[..., None] - 1)
    images = np.stack([columns[0], trimaps, *columns[1:]], axis=1)
    return grid(images.reshape(-1, *images.shape[2:]), columns=images.shape[1])


@nnx.jit
def _predicted(model: Trained, pairs: Pasted, seed: Any) -> list[Float[Array, "n h w z"]]:
    """Of each depth of noise; all in one pass."""
    depths = len(LOOKED_THROUGH)
    many: Pasted = jax.tree.map(lambda x: jnp.concatenate([x] * depths), pairs)
    step = jnp.repeat(jnp.asarray(LOOKED_THROUGH), len(pairs.latent))
    noisy = with_noise(many.latent, jax.random.key(seed), step)
    told = model.told_by_trimap(noisy.latent, noisy.step, many.words, many.trimap, many.empty)
    alpha_bar = jnp.asarray(noise_schedule().alpha_bar)[step]
    return jnp.split(predicted_latent(noisy.latent, told.astype(jnp.float32), alpha_bar), depths)


@nnx.jit
def _contexts(model: Trained, pairs: Pasted) -> tuple[Float[Array, "n k d"], Float[Array, "n k d"]]:
    return model.context(pairs.words), model.context(pairs.empty)


def _decoded(autoencoder: Any, latent: Float[Array, "n h w z"]) -> UInt8[np.ndarray, "n s s 3"]:
    return to_bytes(_compiled_decode(autoencoder, latent))


@jax.jit
def _compiled_decode(autoencoder: Any, latent: Float[Array, "n h w z"]) -> Float[Array, "n s s 3"]:
    image: Array = autoencoder.decode(latent)
    return image
