"""What AdaBLDM trains: denoiser and trimap encoder, and the table of prompts where there is one."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.layers import Draw
from train.generators.adabldm.model import text_tower
from train.generators.adabldm.text import ClipSpec
from train.generators.adabldm.trimap import TrimapEncoder
from train.generators.adabldm.unet import Denoiser
from train.generators.adabldm.weights import computing_in

Latent = Float[Array, "n h w z"]
Words = Int[Array, "n t"] | Float[Array, "n t c"]  # ids for a table, or what the published text encoder made of them


class Trained(nnx.Module):
    """The networks that training moves; weights are float32, whatever they compute in."""

    def __init__(self, config: AdaBLDMConfig, *, rngs: Draw):
        size = config.networks
        self.compute = config.compute
        self.text = None if isinstance(size.text, ClipSpec) else text_tower(size.text, len(config.prompts), rngs=rngs)
        self.denoiser = Denoiser(size.unet, rngs=rngs)
        self.trimap_encoder = TrimapEncoder(size.unet, size.trimap, rngs=rngs)

    def context(self, words: Words) -> Float[Array, "n k d"]:
        """What the prompts are to the denoiser."""
        context: Array = words if self.text is None else self.text(words)
        return context.astype(self.compute)

    def told(self, latent: Latent, step: Int[Array, " n"], words: Words) -> Latent:
        """The noise that the denoiser tells of noisy latents, led by the prompts alone."""
        denoiser = computing_in(self.compute, self.denoiser)
        told: Latent = denoiser(latent.astype(self.compute), step, self.context(words))
        return told

    def told_by_trimap(
        self, latent: Latent, step: Int[Array, " n"], words: Words, trimap: Float[Array, "n s s"], empty: Words
    ) -> Latent:
        """The same, led by trimaps too, whose encoder is told the empty prompt."""
        denoiser, encoder = (computing_in(self.compute, part) for part in (self.denoiser, self.trimap_encoder))
        noisy = latent.astype(self.compute)
        control = encoder(noisy, trimap.astype(self.compute), step, self.context(empty))
        told: Latent = denoiser(noisy, step, self.context(words), control)
        return told


def parameter_counts(config: AdaBLDMConfig) -> dict[str, int]:
    """Numbers in each network that is trained; nothing is drawn."""
    trained = Trained(config, rngs=None)
    parts = {"text": trained.text, "denoiser": trained.denoiser, "trimap_encoder": trained.trimap_encoder}
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts.items() if part is not None}
