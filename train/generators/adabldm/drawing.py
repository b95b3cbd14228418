"""A batch drawn: from normal images and trimaps to images with a defect, as fits the machine.

On a CPU a compiled step is called in turn, sampler and adaptation alike; elsewhere each is one program (README:
"Speed"). Shape letters: n images, s x s pixels, h x w latent cells, z latent channels, k tokens of a prompt, d channels
of a token.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from train.blocks.pixels import to_signed
from train.generators.adabldm.adaptation import Adaptation, Adapted, adapter_of, decoder_of
from train.generators.adabldm.noise_schedule import predicted_latent
from train.generators.adabldm.sampler import (
    Asked,
    Held,
    Networks,
    Sampled,
    Sampling,
    guided_noise,
    held_to,
    sample,
    way_of,
)

Images = Float[Array, "n s s 3"]
Latent = Float[Array, "n h w z"]
Keys = Key[Array, " n"]


class Drawn(NamedTuple):
    """Images lie in [-1, 1], or a little beyond."""

    normal: Images
    mask: Float[Array, "n s s"]  # of the defect
    sampled: Sampled
    adapted: Adapted

    @property
    def levels(self) -> Float[Array, "n s s 3"]:
        """What came of it, in grey levels from 0 to 255."""
        return (jnp.clip(self.adapted.image, -1, 1) + 1) * 127.5


@dataclass(frozen=True)
class Manner:
    """How a batch is drawn."""

    sampling: Sampling
    adaptation: Adaptation


class Drawing:
    """Networks that draw. Keep it: what it compiles serves all batches of one size."""

    def __init__(self, networks: Networks, manner: Manner):
        self.networks, self.manner = networks, manner
        self.in_turn = jax.default_backend() == "cpu"
        decode, self._decoder = decoder_of(networks.autoencoder)
        self._adapt = adapter_of(decode, manner.adaptation)
        self._hold = jax.jit(_held)
        self._sample = jax.jit(partial(sample, sampling=manner.sampling))

    def __call__(self, images: UInt8[Array, "n s s 3"], asked: Asked, keys: Keys) -> Drawn:
        """An image depends on its own key, trimap and prompts alone."""
        held = self._hold(self.networks, images, asked)
        sampled = (
            sample(self.networks, asked, held, keys, self.manner.sampling, in_turn=True)
            if self.in_turn
            else self._sample(self.networks, asked, held, keys)
        )
        adapted = self._adapt(self._decoder, held.image, held.pixels, sampled.latent)
        return Drawn(held.image, held.pixels, sampled, adapted)

    def seen(self, drawn: Drawn, asked: Asked) -> tuple[Images, ...]:
        """What the latent at the end of each stage was to become, decoded; after the last one, the latent itself."""
        way, seen = way_of(self.manner.sampling), []
        for latent, (_, _, stop) in zip(drawn.sampled.stages, self.manner.sampling.stages.stretches(), strict=True):
            if stop < len(way.number):
                at = {"step": jnp.asarray(way.step[stop]), "alpha_bar": jnp.asarray(way.alpha_bar[stop])}
                seen.append(_looked_ahead(self.networks, latent, asked, guidance=self.manner.sampling.guidance, **at))
            else:
                seen.append(drawn.adapted.before)
        return tuple(seen)


def _held(networks: Networks, images: UInt8[Array, "n s s 3"], asked: Asked) -> Held:
    return held_to(networks.autoencoder, to_signed(images, 3), asked.trimap)


@partial(jax.jit, static_argnames="guidance")
def _looked_ahead(
    networks: Networks, latent: Latent, asked: Asked, *, step: Any, alpha_bar: Any, guidance: float
) -> Images:
    noise = guided_noise(networks, latent, step, asked, guidance)
    clean: Images = networks.autoencoder.decode(predicted_latent(latent, noise, alpha_bar))
    return clean
