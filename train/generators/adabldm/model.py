"""AdaBLDM's networks of one size, and those of them that are exported.

Sheet: "Architecture". What they are trained for and how they sample stands elsewhere: nothing here is a loss or a loop.
"""

from functools import partial

import jax
import numpy as np
from flax import nnx

from train.generators.adabldm.autoencoder import KLAutoencoder, KLSpec
from train.generators.adabldm.layers import Draw
from train.generators.adabldm.noise_schedule import STEPS
from train.generators.adabldm.sizes import Size, TextSpec
from train.generators.adabldm.text import ClipSpec, ClipText, LabelSpec, LabelTable, WordTable
from train.generators.adabldm.tiny_autoencoder import TinyAutoencoder
from train.generators.adabldm.trimap import TrimapEncoder
from train.generators.adabldm.unet import Control, Denoiser
from train.generators.adabldm.weights import AdaBLDMWeights
from train.networks import Array, Network


class AdaBLDM(nnx.Module):
    """Omega and Phi, tau, epsilon_theta, and zeta with epsilon-hat_tri."""

    def __init__(self, size: Size, *, labels: int = 0, rngs: Draw):
        """`labels`: prompts that a label table knows, the empty one not counted."""
        self.autoencoder = (
            KLAutoencoder(size.autoencoder, rngs=rngs)
            if isinstance(size.autoencoder, KLSpec)
            else TinyAutoencoder(size.autoencoder, rngs=rngs)
        )
        self.text = text_tower(size.text, labels, rngs=rngs)
        self.denoiser = Denoiser(size.unet, rngs=rngs)
        self.trimap_encoder = TrimapEncoder(size.unet, size.trimap, rngs=rngs)


def text_tower(spec: TextSpec, labels: int, *, rngs: Draw) -> ClipText | LabelTable | WordTable:
    """tau, of the kind that its sizes are of."""
    if isinstance(spec, ClipSpec):
        return ClipText(spec, rngs=rngs)
    return LabelTable(spec, labels, rngs=rngs) if isinstance(spec, LabelSpec) else WordTable(spec, rngs=rngs)


def exported(model: AdaBLDM | AdaBLDMWeights, size: Size) -> tuple[Network, ...]:
    """Text tower, halves of the autoencoder, trimap encoder and denoiser, each a graph of its own.

    Images in [-1, 1], trimaps in [0, 1]. The denoiser takes the trimap encoder's maps one by one.
    """
    unet, cells = size.unet, size.latent
    rows, per_prompt = model.text.table.shape[0], 1 if isinstance(size.text, LabelSpec) else size.text.tokens
    ids = {"ids": Array(("batch", per_prompt), np.int32, limit=rows)}
    image, trimap = (
        {name: Array(("batch", size.image, size.image, *more))} for name, more in (("image", (3,)), ("trimap", ()))
    )
    latent = {"latent": Array(("batch", cells, cells, unet.latent_channels))}
    step = {"step": Array(("batch",), np.int32, limit=STEPS)}
    context = {"context": Array(("batch", size.text.tokens, unet.context))}
    sides = [cells // 2 ** (number // (unet.residual_blocks + 1)) for number in range(len(unet.skip_widths))]
    maps = {
        f"skip_{number}": Array(("batch", side, side, width))
        for number, (side, width) in enumerate(zip(sides, unet.skip_widths, strict=True))
    }
    maps["middle"] = Array(("batch", sides[-1], sides[-1], unet.level_widths[-1]))
    return (
        Network("text", model.text, ids, ("context",)),
        Network("encoder", model.autoencoder.encode, image, ("latent",)),
        Network("decoder", model.autoencoder.decode, latent, ("image",)),
        Network("trimap_encoder", model.trimap_encoder, latent | trimap | step | context, tuple(maps)),
        Network("denoiser", partial(_denoised, model.denoiser), latent | step | context | maps, ("noise",)),
    )


def _denoised(
    denoiser: Denoiser, latent: jax.Array, step: jax.Array, context: jax.Array, *maps: jax.Array
) -> jax.Array:
    *skips, middle = maps
    return denoiser(latent, step, context, Control(tuple(skips), middle))
