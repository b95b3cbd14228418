"""Trimap embedding and trimap encoder: where the defect goes, told to the denoiser through 13 maps.

Sheet: "Architecture" 4 and 5; the encoder is what ControlNet (Zhang et al. 2023, arXiv:2302.05543) adds to a U-Net.
Shape letters: n images, y x x pixels, h x w latent cells, c channels.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.generators.adabldm.layers import Conv, Draw
from train.generators.adabldm.unet import Context, Control, Denoiser, Latent, Step, UNetEncoder, UNetSpec

DEFECT, FOREGROUND, BACKGROUND = 1.0, 0.5, 0.0  # the values of a trimap


@dataclass(frozen=True)
class TrimapSpec:
    """Channels of the embedding's convolutions; every step from one to the next halves the map."""

    widths: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def factor(self) -> int:
        """Pixels of the trimap per latent cell and side."""
        return int(2 ** (len(self.widths) - 1))


class TrimapEmbedding(nnx.Module):
    """zeta: a trimap of the image's size -> a map of the latent's size, at first 0 everywhere."""

    def __init__(self, spec: TrimapSpec, width: int, *, rngs: Draw):
        first, last = spec.widths[0], spec.widths[-1]
        convs = [Conv(3, first, rngs=rngs)]
        for channels, features in pairwise(spec.widths):
            convs.append(Conv(channels, channels, rngs=rngs))
            convs.append(Conv(channels, features, stride=2, rngs=rngs))
        self.convs = nnx.List(convs)
        self.conv_out = Conv(last, width, zero=True, rngs=rngs)

    def __call__(self, trimap: Float[Array, "n y x"]) -> Float[Array, "n h w c"]:
        x = jnp.repeat(trimap[..., None], 3, axis=-1)
        for conv in self.convs:
            x = nnx.silu(conv(x))
        return self.conv_out(x)


class TrimapEncoder(nnx.Module):
    """epsilon-hat_tri: the denoiser's way down and middle once more, each map sent on through 1 x 1 of zeros.

    A fresh one changes nothing of what the denoiser says; training starts from there.
    """

    def __init__(self, spec: UNetSpec, trimap: TrimapSpec, *, rngs: Draw):
        self.embedding = TrimapEmbedding(trimap, spec.width, rngs=rngs)
        self.encoder = UNetEncoder(spec, rngs=rngs)
        self.zero_skips = nnx.List([Conv(width, width, 1, zero=True, rngs=rngs) for width in spec.skip_widths])
        self.zero_middle = Conv(spec.level_widths[-1], spec.level_widths[-1], 1, zero=True, rngs=rngs)

    def __call__(self, latent: Latent, trimap: Float[Array, "n y x"], step: Step, empty: Context) -> Control:
        """`empty` is the context of the empty prompt, whatever the denoiser is told (sheet: "Architecture" 5)."""
        encoded = self.encoder(latent, step, empty, self.embedding(trimap))
        skips = tuple(zero(skip) for zero, skip in zip(self.zero_skips, encoded.skips, strict=True))
        return Control(skips, self.zero_middle(encoded.middle))

    def start_from(self, denoiser: Denoiser) -> None:
        """Takes the denoiser's way down and middle as its own, in place; the arrays are not shared."""
        state = nnx.state(denoiser.encoder)
        nnx.update(self.encoder, jax.tree.map(jnp.copy, state))
