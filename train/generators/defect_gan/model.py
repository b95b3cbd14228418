"""Defect-GAN's generator: a defect layer and a soft mask over the untouched image (Zhang et al., arXiv:2103.15158).

Sheet: "Architecture". Shape letters: n images, h x w pixels, c channels, k control channels (channels last).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.blocks.strided import Form, strided_conv, transposed_conv
from train.blocks.subpixel import convolve
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.convolution import Convolution
from train.generators.defect_gan.critic import Critic

Maps = Float[Array, "n h w c"]
Control = Float[Array, "n _h _w k"]  # of the image's size, whatever the map's is
EPSILON = 1e-5


class Layer(NamedTuple):
    """What the generator lays over an image."""

    foreground: Float[Array, "n h w c"]  # f, in [-1, 1]
    mask: Float[Array, "n h w 1"]  # m, in [0, 1]

    def over(self, image: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """n (1 - m) + f m, by pixels (sheet: composed image)."""
        return image * (1 - self.mask) + self.foreground * self.mask


class InstanceNorm(nnx.Module):
    """Every channel of every image to mean 0 and variance 1, then a learned scale and shift."""

    def __init__(self, channels: int):
        self.scale, self.shift = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Maps, control: Control) -> Maps:
        return normalised(x) * self.scale[...] + self.shift[...]


class Spade(nnx.Module):
    """Instance norm whose scale and shift are made, pixel by pixel, of the control map (sheet: SPADE)."""

    def __init__(self, channels: int, controls: int, hidden: int, *, rngs: nnx.Rngs):
        self.shared = Convolution(3, controls, hidden, bias=True, rngs=rngs)
        self.scale_and_shift = Convolution(3, hidden, 2 * channels, bias=True, rngs=rngs)

    def __call__(self, x: Maps, control: Control) -> Maps:
        step = control.shape[1] // x.shape[1]  # nearest, as PyTorch does it: the first of each square
        gamma, beta = jnp.split(self.scale_and_shift(nnx.relu(self.shared(control[:, ::step, ::step]))), 2, axis=-1)
        return normalised(x) * (1 + gamma) + beta


class Noise(nnx.Module):
    """x + w e: Gaussian noise, one map for all channels, with a learned strength per channel."""

    def __init__(self, channels: int, start: float):
        self.strength = nnx.Param(start * jnp.ones(channels))  # not `full`, whose weak type would compile a step twice

    def __call__(self, x: Maps, noise: Float[Array, "n h w 1"]) -> Maps:
        return x + self.strength[...] * noise


class Block(nnx.Module):
    """Convolution of stride 1 or 2 (down or up), norm, ReLU."""

    def __init__(self, conv: Convolution, norm: InstanceNorm | Spade, way: str, form: Form):
        self.conv, self.norm, self.way, self.form = conv, norm, way, form

    def __call__(self, x: Maps, control: Control) -> Float[Array, "n h2 w2 o"]:
        kernel, side = self.conv.kernel[...], x.shape[1]
        if self.way == "down":
            x = strided_conv(x, kernel, side // 2, 1, self.form)
        elif self.way == "up":
            x = transposed_conv(x, kernel, 2 * side, 1, self.form)
        else:
            x = convolve(x, kernel)
        return nnx.relu(self.norm(x, control))


class ResidualBlock(nnx.Module):
    """x + norm(conv(ReLU(norm(conv(x)))))."""

    def __init__(self, channels: int, norms: tuple[InstanceNorm | Spade, InstanceNorm | Spade], *, rngs: nnx.Rngs):
        self.convs = nnx.List([Convolution(3, channels, channels, rngs=rngs) for _ in range(2)])
        self.norms = nnx.List(norms)

    def __call__(self, x: Maps, control: Control) -> Maps:
        y = nnx.relu(self.norms[0](self.convs[0](x), control))
        return x + self.norms[1](self.convs[1](y), control)


class Generator(nnx.Module):
    """Image and control map to a layer over the image; one network for both directions."""

    def __init__(self, config: DefectGANConfig, *, rngs: nnx.Rngs):
        channels, controls, f = config.channels, config.control_channels, config.filters
        self.composition, self.control_is_input = config.composition, not config.spade
        form = config.layout_form

        def norm(width: int, *, told: bool) -> InstanceNorm | Spade:
            if told and config.spade:
                return Spade(width, controls, config.spade_hidden, rngs=rngs)
            return InstanceNorm(width)

        def block(k: int, c: int, o: int, way: str, *, told: bool) -> Block:
            return Block(Convolution(k, c, o, rngs=rngs), norm(o, told=told), way, form)

        first = channels + (controls if self.control_is_input else 0)
        blocks: list[Block | ResidualBlock] = [
            block(7, first, f, "same", told=False),
            block(4, f, 2 * f, "down", told=False),
            block(4, 2 * f, 4 * f, "down", told=False),
        ]
        for number in range(config.residual_blocks):
            told = number >= config.residual_blocks // 2  # so that the category is known before the map grows
            norms = norm(4 * f, told=told), norm(4 * f, told=told)
            blocks.append(ResidualBlock(4 * f, norms, rngs=rngs))
        blocks += [block(4, 4 * f, 2 * f, "up", told=True), block(4, 2 * f, f, "up", told=True)]
        self.blocks = nnx.List(blocks)
        widths = [f, 2 * f, 4 * f, *[4 * f] * config.residual_blocks, 2 * f, f]
        self.noises = nnx.List([Noise(width, config.noise_start) for width in widths]) if config.noise else None
        self.foreground = Convolution(7, f, channels, rngs=rngs)
        self.mask = Convolution(7, f, 1, bias=True, rngs=rngs) if config.composition else None
        if self.mask is not None and self.mask.bias is not None:
            self.mask.bias[...] = jnp.ones(1) * math.log(config.mask_start / (1 - config.mask_start))

    def __call__(
        self, image: Float[Array, "n h w c"], control: Float[Array, "n h w k"], noise: Float[Array, "n z"]
    ) -> Layer:
        """`noise` holds the maps of all blocks, one after the other (`draw_noise`)."""
        image, control = (x.astype(self.foreground.kernel.dtype) for x in (image, control))
        x = jnp.concatenate([image, control], axis=-1) if self.control_is_input else image
        used = 0
        for number, block in enumerate(self.blocks):
            x = block(x, control)
            if self.noises is not None:
                side = x.shape[1]
                x = self.noises[number](x, noise[:, used : used + side**2].reshape(-1, side, side, 1))
                used += side**2
        foreground = jnp.tanh(self.foreground(x))
        if self.mask is None:
            return Layer(foreground, jnp.ones((*image.shape[:3], 1), image.dtype))
        return Layer(foreground, nnx.sigmoid(self.mask(x)))


class DefectGAN(nnx.Module):
    """Both networks, as they are trained."""

    def __init__(self, config: DefectGANConfig, *, rngs: nnx.Rngs):
        self.generator = Generator(config, rngs=rngs)
        self.critic = Critic(config, rngs=rngs)
        self.updates = Count(jnp.zeros((), jnp.float32))  # of the generator, which w_mask_size rises by


class Count(nnx.Variable):
    """A number that a loss counts up."""


def normalised(x: Maps) -> Maps:
    """Mean 0 and variance 1 over the pixels of each channel of each image."""
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=(1, 2), keepdims=True) + EPSILON)
