"""AESc: an autoencoder with additive skip connections (Collin and De Vleeschouwer, ICPR 2020, arXiv:2008.12977).

The network of the authors' Keras code, configuration AESc_d6_f5_n16; `skips=False` is its baseline AE. Sheet:
"Architecture".
Shape letters: n images, h x w pixels, c channels (channels last).
"""

from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from train.blocks.subpixel import Form, downsampling_conv, upsampling_conv

DEPTH = 6  # halvings; the bottleneck of a 256 px image is 4 x 4
NEGATIVE_SLOPE = 0.3  # Keras' default LeakyReLU

Forms = tuple[Form, ...]  # one per encoder level, then one for the whole decoder
PLAIN: Forms = ("plain", "plain", "plain", "plain", "plain", "plain", "plain")
# Fastest level by level on 2 CPU cores; the last level's plain gradient alone costs as much as all the rest.
CPU_TRAINING: Forms = ("subpixel", "subpixel", "subpixel", "plain", "plain", "patches", "subpixel")


class ConvNorm(nnx.Module):
    """5x5 convolution and batch normalisation, both with Keras' defaults; the caller says which way it samples."""

    def __init__(self, channels: int, features: int, *, momentum: float, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, features, (5, 5), kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=momentum, epsilon=1e-3, rngs=rngs)

    def finish(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """What follows the bare convolution: bias, batch normalisation, LeakyReLU."""
        assert self.conv.bias is not None
        return nnx.leaky_relu(self.norm(x + self.conv.bias[...]), NEGATIVE_SLOPE)


class AESc(nnx.Module):
    """Image in [0, 1] -> reconstruction in [0, 1], same shape.

    `model.eval()` uses the running statistics of batch normalisation, `model.train()` those of the batch.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        skips: bool = True,
        forms: Forms = PLAIN,
        norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        """`channels` of the image (1 or 3), `filters` of the first level, doubled at each of the six levels."""
        block = partial(ConvNorm, momentum=norm_momentum, rngs=rngs)
        widths = [filters * 2**level for level in range(DEPTH)]
        self.skips, self.forms = skips, forms
        self.encoder = nnx.List([block(a, b) for a, b in zip([channels, *widths], widths, strict=False)])
        self.decoder = nnx.List([block(widths[j + 1], widths[j]) for j in reversed(range(DEPTH - 1))])
        self.head = nnx.Conv(widths[0], channels, (5, 5), kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Reconstruction of x; h and w are multiples of 64."""
        levels = []
        *encoder_forms, decoder_form = self.forms
        for block, form in zip(self.encoder, encoder_forms, strict=True):
            x = block.finish(downsampling_conv(x, block.conv.kernel[...], form))
            levels.append(x)
        for block, skip in zip(self.decoder, reversed(levels[:-1]), strict=True):
            x = block.finish(upsampling_conv(x, block.conv.kernel[...], decoder_form))
            x = x + skip if self.skips else x  # before the next upsampling; none at the input's resolution
        assert self.head.bias is not None
        return jax.nn.sigmoid(upsampling_conv(x, self.head.kernel[...], decoder_form) + self.head.bias[...])
