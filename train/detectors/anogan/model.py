"""AnoGAN's networks: a DCGAN that learns to draw good parts (Schlegl et al., IPMI 2017, arXiv:1703.05921).

Sheet: "Architecture". Shape letters: n images, d numbers in z, h x w pixels, c channels (channels last).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.blocks.strided import Form, strided_conv, transposed_conv
from train.detectors.anogan.layout import Layout

Images = Float[Array, "n h w c"]
Latents = Float[Array, "n d"]

NEGATIVE_SLOPE = 0.2
SPREAD = 0.02  # standard deviation of all first weights


class Judged(NamedTuple):
    """What the discriminator makes of images."""

    logit: Float[Array, " n"]  # of "is a good part"
    feature: Float[Array, "n f"]  # f(x)


class Kernel(nnx.Module):
    """Weights of a convolution, or of its transpose; a bias only where no batch normalisation brings one."""

    def __init__(self, k: int, c: int, o: int, *, bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(SPREAD * jax.random.normal(rngs.params(), (k, k, c, o)))
        self.bias = nnx.Param(jnp.zeros(o)) if bias else None

    def plus_bias(self, x: Images) -> Images:
        return x if self.bias is None else x + self.bias[...]


class Generator(nnx.Module):
    """z -> image in [-1, 1]."""

    def __init__(
        self,
        layout: Layout,
        latent: int,
        filters: int,
        channels: int,
        *,
        form: Form,
        biases: bool = False,
        rngs: nnx.Rngs,
    ):
        self.layout, self.form = layout, form
        width, side = layout.first_width * filters, layout.first_size
        self.project = nnx.Param(SPREAD * jax.random.normal(rngs.params(), (latent, side * side * width)))
        convs, norms = [], [_norm(width, rngs)]
        for conv in layout.up:
            out = conv.width * filters or channels
            convs.append(Kernel(conv.kernel, width, out, bias=biases and not conv.width, rngs=rngs))
            if conv.width:
                norms.append(_norm(out, rngs))
            width = out
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)

    def __call__(self, z: Latents) -> Images:
        side = self.layout.first_size
        x = (z @ self.project[...]).reshape(z.shape[0], side, side, -1)
        for conv, norm, kernel in zip(self.layout.up, self.norms, self.convs, strict=True):
            x = transposed_conv(nnx.relu(norm(x)), kernel.kernel[...], conv.size, conv.padding, self.form)
            x = kernel.plus_bias(x)
        return jnp.tanh(x)


class Discriminator(nnx.Module):
    """Image in [-1, 1] -> how much it looks like a good part, and the features that say so."""

    def __init__(
        self, layout: Layout, filters: int, channels: int, *, form: Form, biases: bool = False, rngs: nnx.Rngs
    ):
        self.layout, self.form = layout, form
        width, convs, norms = channels, [], []
        for number, conv in enumerate(layout.down):
            convs.append(Kernel(conv.kernel, width, conv.width * filters, bias=biases and not number, rngs=rngs))
            width = conv.width * filters
            if number:  # the first has none
                norms.append(_norm(width, rngs))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        features = width if layout.pooled_feature else width * layout.down[-1].size ** 2
        self.head = nnx.Linear(features, 1, kernel_init=nnx.initializers.normal(SPREAD), rngs=rngs)

    def __call__(self, x: Images) -> Judged:
        for number, (conv, kernel) in enumerate(zip(self.layout.down, self.convs, strict=True)):
            x = kernel.plus_bias(strided_conv(x, kernel.kernel[...], conv.size, conv.padding, self.form))
            x = nnx.leaky_relu(self.norms[number - 1](x) if number else x, NEGATIVE_SLOPE)
        feature = feature_of(x, self.layout)
        return Judged(self.head(feature)[:, 0], feature)


class AnoGAN(nnx.Module):
    """Both, as they are trained."""

    def __init__(
        self,
        layout: Layout,
        latent: int,
        filters: int,
        channels: int,
        *,
        form: Form,
        biases: bool = False,
        rngs: nnx.Rngs,
    ):
        self.latent = latent
        self.generator = Generator(layout, latent, filters, channels, form=form, biases=biases, rngs=rngs)
        self.discriminator = Discriminator(layout, filters, channels, form=form, biases=biases, rngs=rngs)

    def draw(self, key: PRNGKeyArray, count: int) -> Images:
        """Images of random z."""
        return self.generator(jax.random.normal(key, (count, self.latent)))


def feature_of(last_map: Images, layout: Layout) -> Float[Array, "n f"]:
    if layout.pooled_feature:
        return last_map.mean(axis=(1, 2))
    return last_map.reshape(last_map.shape[0], -1)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Momentum and epsilon are PyTorch's defaults."""

    def around_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return 1 + SPREAD * jax.random.normal(key, shape, dtype)

    return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, scale_init=around_one, rngs=rngs)
