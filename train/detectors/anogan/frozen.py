"""Both networks as they stand still: batch normalisation inside the kernels, and on a CPU the kernels in tiles.

Shape letters: n images, d numbers in z, h x w pixels, c channels.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.blocks import tiles
from train.blocks.strided import spread, strided_conv, taps_of, transposed_conv
from train.detectors.anogan.layout import Conv, Layout
from train.detectors.anogan.model import NEGATIVE_SLOPE, AnoGAN, Images, Judged, Kernel, Latents, feature_of

FEW = 8  # channels below which a layer is not worth tiles

FrozenForm = Literal[
    "plain", "matmul", "tiles"
]  # the two of train/blocks/strided.py, and that of train/blocks/tiles.py


class Folded(NamedTuple):
    """A layer with its batch normalisation inside."""

    kernel: Float[Array, "... o"]
    bias: Float[Array, " _o"]


class Tiled(NamedTuple):
    """The same, the kernel folded for train/blocks/tiles.py."""

    kernel: tiles.Values
    bias: Float[Array, " o"]


class Networks(NamedTuple):
    """Generator and discriminator as they score."""

    project: Folded
    up: tuple[Folded | Tiled, ...]
    down: tuple[Folded | Tiled, ...]
    head: Folded


def fold(model: AnoGAN) -> Networks:
    """Both networks in inference mode."""

    def folded(conv: Kernel, norm: nnx.BatchNorm | None) -> Folded:
        if norm is None:
            bias = jnp.zeros(conv.kernel.shape[-1], conv.kernel.dtype) if conv.bias is None else conv.bias[...]
            return Folded(conv.kernel[...], bias)
        return normalised(conv.kernel[...], norm)

    def normalised(kernel: Array, norm: nnx.BatchNorm) -> Folded:
        assert norm.scale is not None
        assert norm.bias is not None
        gain = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
        return Folded(kernel * gain, norm.bias[...] - norm.mean[...] * gain)

    generator, discriminator = model.generator, model.discriminator
    latent = generator.project.shape[0]
    first = normalised(generator.project[...].reshape(latent, generator.layout.first_size**2, -1), generator.norms[0])
    up = [folded(conv, norm) for conv, norm in zip(generator.convs, [*generator.norms[1:], None], strict=True)]
    down = [folded(conv, norm) for conv, norm in zip(discriminator.convs, [None, *discriminator.norms], strict=True)]
    assert discriminator.head.bias is not None
    head = Folded(discriminator.head.kernel[...], discriminator.head.bias[...])
    return Networks(first, tuple(up), tuple(down), head)


def in_tiles(networks: Networks, layout: Layout) -> Networks:
    """Kernels of wide layers folded for train/blocks/tiles.py: once, for all that is done with them."""

    def tiled(layer: Folded | Tiled, conv: Conv, h: int, *, down: bool) -> Folded | Tiled:
        if isinstance(layer, Tiled):
            return layer
        kernel = layer.kernel.swapaxes(2, 3) if down else layer.kernel
        if min(kernel.shape[2:]) < FEW:
            return layer
        return Tiled(tiles.fold(kernel, _plan(conv, h, down=down)), layer.bias)

    return networks._replace(
        up=tuple(
            tiled(layer, conv, h, down=False)
            for layer, conv, h in zip(networks.up, layout.up, _sides(layout.first_size, layout.up), strict=True)
        ),
        down=tuple(
            tiled(layer, conv, h, down=True)
            for layer, conv, h in zip(networks.down, layout.down, _sides(layout.size, layout.down), strict=True)
        ),
    )


def generate(networks: Networks, z: Latents, layout: Layout, form: FrozenForm) -> Images:
    """The same as `Generator.__call__` of `model.eval()`."""
    side, (kernel, bias) = layout.first_size, networks.project
    if form == "tiles":
        x = (z @ kernel.swapaxes(0, 1)).reshape(side, side, *z.shape[:1], -1) + bias
    else:
        x = (z @ kernel.reshape(kernel.shape[0], -1)).reshape(z.shape[0], side, side, -1) + bias
    for conv, h, layer in zip(layout.up, _sides(side, layout.up), networks.up, strict=True):
        x = nnx.relu(x)
        if isinstance(layer, Tiled):
            x = tiles.transposed_conv(x, layer.kernel, _plan(conv, h, down=False))
        elif form != "tiles":
            x = transposed_conv(x, layer.kernel, conv.size, conv.padding, form)
        else:  # few channels: cheaper to move once it has them
            products = x @ layer.kernel.transpose(2, 0, 1, 3).reshape(x.shape[-1], -1)
            products = products.transpose(IMAGES_FIRST).reshape(z.shape[0], h, h, conv.kernel, conv.kernel, -1)
            x = spread(products, conv.size, conv.padding).transpose(PIXELS_FIRST)
        x = x + layer.bias
    return jnp.tanh(x.transpose(IMAGES_FIRST) if form == "tiles" else x)


def discriminate(networks: Networks, x: Images, layout: Layout, form: FrozenForm) -> Judged:
    """The same as `Discriminator.__call__` of `model.eval()`."""
    if form == "tiles":
        x = x.transpose(PIXELS_FIRST)
    for conv, h, layer in zip(layout.down, _sides(layout.size, layout.down), networks.down, strict=True):
        if isinstance(layer, Tiled):
            x = tiles.strided_conv(x, layer.kernel, _plan(conv, h, down=True))
        elif form != "tiles":
            x = strided_conv(x, layer.kernel, conv.size, conv.padding, form)
        else:
            x = taps_of(x.transpose(IMAGES_FIRST), conv.kernel, conv.size, conv.padding).transpose(PIXELS_FIRST)
            x = x @ layer.kernel.reshape(-1, layer.kernel.shape[-1])
        x = nnx.leaky_relu(x + layer.bias, NEGATIVE_SLOPE)
    feature = feature_of(x.transpose(IMAGES_FIRST) if form == "tiles" else x, layout)
    return Judged((feature @ networks.head.kernel + networks.head.bias)[:, 0], feature)


PIXELS_FIRST, IMAGES_FIRST = (1, 2, 0, 3), (2, 0, 1, 3)


def _sides(first: int, convs: tuple[Conv, ...]) -> list[int]:
    """Of each layer's input."""
    return [first, *(conv.size for conv in convs[:-1])]


def _plan(conv: Conv, h: int, *, down: bool) -> tiles.Plan:
    """Of a layer from h x h pixels; a strided one's is that of its transpose."""
    narrow, wide = (conv.size, h) if down else (h, conv.size)
    return tiles.plan(narrow, conv.kernel, conv.padding, wide)
