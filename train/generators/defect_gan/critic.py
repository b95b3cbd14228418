"""Defect-GAN's discriminator: a PatchGAN critic with a classifier beside it, as StarGAN's (sheet: Architecture).

Shape letters: n images, h x w pixels, p x p patches, c channels, k categories and, last, normal.
"""

from itertools import pairwise
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from train.blocks.strided import strided_conv
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.convolution import Convolution

NEGATIVE_SLOPE = 0.01


class Judged(NamedTuple):
    """What the critic makes of images."""

    value: Float[Array, " n"]  # D_src: the mean of its patches
    logits: Float[Array, "n k"]  # D_cls


class Critic(nnx.Module):
    """Images in [-1, 1] to how real they look and what they show. No norm: its gradient is penalised image by image."""

    def __init__(self, config: DefectGANConfig, *, rngs: nnx.Rngs):
        self.form = config.layout_form
        widths = [config.channels, *(config.critic_filters * 2**number for number in range(config.critic_layers))]
        self.convs = nnx.List([Convolution(4, c, o, bias=True, rngs=rngs) for c, o in pairwise(widths)])
        self.source = Convolution(3, widths[-1], 1, rngs=rngs)
        side = config.image_size // 2**config.critic_layers
        self.classes = Convolution(side, widths[-1], config.control_channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Judged:
        for conv in self.convs:
            assert conv.bias is not None
            x = strided_conv(x, conv.kernel[...], x.shape[1] // 2, 1, self.form) + conv.bias[...]
            x = nnx.leaky_relu(x, NEGATIVE_SLOPE)
        classes = self.classes.kernel[...]  # as large as the map: a product of all its numbers
        logits = x.reshape(x.shape[0], -1) @ classes.reshape(-1, classes.shape[-1])
        return Judged(self.source(x).mean(axis=(1, 2, 3)), logits)
