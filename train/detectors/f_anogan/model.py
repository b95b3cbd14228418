"""f-AnoGAN's networks: a residual WGAN, and an encoder in the place of the search.

Schlegl et al., Medical Image Analysis 54, 2019; layers as the authors' code has them. Sheet: "Architecture".

Shape letters: n images, d numbers in z, h x w pixels, c channels (channels last).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

Images = Float[Array, "n h w c"]
Resized = Float[Array, "n h2 w2 c2"]
Latents = Float[Array, "n d"]

SIZE, SMALLEST = 64, 4  # sides of the image and of the smallest map
WIDTHS = (1, 2, 4, 8, 8)  # of the maps from the largest to the smallest, in `filters`
WINDOW = (3, 3)

Norm = Callable[[int, nnx.Rngs], nnx.Module]


class Judged(NamedTuple):
    """What the critic makes of images."""

    value: Float[Array, " n"]
    feature: Float[Array, "n f"]  # f(x): the smallest map


class LayerNorm(nnx.Module):
    """Over all of an image, gain and shift per channel."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.gain, self.shift = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Images) -> Images:
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        variance = jnp.square(x - mean).mean(axis=(1, 2, 3), keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.gain[...] + self.shift[...]


def batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def doubled(x: Images) -> Resized:
    """Nearest x2."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def halved(x: Images) -> Resized:
    """Mean of 2 x 2."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _conv(channels: int, features: int, window: tuple[int, int], rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(channels, features, window, kernel_init=nnx.initializers.he_normal(), rngs=rngs)


class Up(nnx.Module):
    """Residual block that doubles the side."""

    def __init__(self, channels: int, features: int, rngs: nnx.Rngs):
        self.norm_in, self.norm_out = batch_norm(channels, rngs), batch_norm(features, rngs)
        self.conv_in, self.conv_out = _conv(channels, features, WINDOW, rngs), _conv(features, features, WINDOW, rngs)
        self.shortcut = _conv(channels, features, (1, 1), rngs)

    def __call__(self, x: Images) -> Resized:
        y = self.conv_in(doubled(nnx.relu(self.norm_in(x))))
        y = self.conv_out(nnx.relu(self.norm_out(y)))
        return y + doubled(self.shortcut(x))  # a 1 x 1 convolution and a doubling may change places


class Down(nnx.Module):
    """Residual block that halves the side."""

    def __init__(self, channels: int, features: int, norm: Norm, rngs: nnx.Rngs):
        self.norm_in, self.norm_out = norm(channels, rngs), norm(channels, rngs)
        self.conv_in, self.conv_out = _conv(channels, channels, WINDOW, rngs), _conv(channels, features, WINDOW, rngs)
        self.shortcut = _conv(channels, features, (1, 1), rngs)

    def __call__(self, x: Images) -> Resized:
        y = self.conv_in(nnx.relu(self.norm_in(x)))
        y = halved(self.conv_out(nnx.relu(self.norm_out(y))))
        return y + self.shortcut(halved(x))


class Trunk(nnx.Module):
    """Image -> the smallest map, flat: what critic and encoder have in common."""

    def __init__(self, filters: int, channels: int, norm: Norm, rngs: nnx.Rngs):
        self.first = _conv(channels, WIDTHS[0] * filters, WINDOW, rngs)
        self.blocks = nnx.List([Down(a * filters, b * filters, norm, rngs) for a, b in pairwise(WIDTHS)])

    def __call__(self, x: Images) -> Float[Array, "n f"]:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x.reshape(x.shape[0], -1)


class Generator(nnx.Module):
    """z -> image in [-1, 1]."""

    def __init__(self, latent: int, filters: int, channels: int, rngs: nnx.Rngs):
        widths = [width * filters for width in reversed(WIDTHS)]
        self.project = nnx.Linear(latent, SMALLEST**2 * widths[0], rngs=rngs)
        self.blocks = nnx.List([Up(a, b, rngs) for a, b in pairwise(widths)])
        self.norm = batch_norm(widths[-1], rngs)
        self.last = nnx.Conv(widths[-1], channels, WINDOW, rngs=rngs)

    def __call__(self, z: Latents) -> Images:
        x = self.project(z).reshape(z.shape[0], SMALLEST, SMALLEST, -1)
        for block in self.blocks:
            x = block(x)
        return jnp.tanh(self.last(nnx.relu(self.norm(x))))


class Critic(nnx.Module):
    """Image -> a number that is larger for good parts, and the features behind it."""

    def __init__(self, filters: int, channels: int, rngs: nnx.Rngs):
        self.trunk = Trunk(filters, channels, LayerNorm, rngs)
        self.head = nnx.Linear(SMALLEST**2 * WIDTHS[-1] * filters, 1, rngs=rngs)

    def __call__(self, x: Images) -> Judged:
        feature = self.trunk(x)
        return Judged(self.head(feature)[:, 0], feature)


class Encoder(nnx.Module):
    """Image -> z in (-1, 1)."""

    def __init__(self, latent: int, filters: int, channels: int, rngs: nnx.Rngs):
        self.trunk = Trunk(filters, channels, batch_norm, rngs)
        self.head = nnx.Linear(SMALLEST**2 * WIDTHS[-1] * filters, latent, rngs=rngs)

    def __call__(self, x: Images) -> Latents:
        return jnp.tanh(self.head(self.trunk(x)))


class FAnoGAN(nnx.Module):
    """All three, as they are trained and as they score."""

    def __init__(self, latent: int, filters: int, channels: int, *, rngs: nnx.Rngs):
        self.latent = latent
        self.generator = Generator(latent, filters, channels, rngs)
        self.critic = Critic(filters, channels, rngs)
        self.encoder = Encoder(latent, filters, channels, rngs)

    def draw(self, key: PRNGKeyArray, count: int) -> Images:
        """Images of random z."""
        return self.generator(jax.random.normal(key, (count, self.latent)))

    def again(self, x: Images) -> Images:
        """G(E(x))."""
        return self.generator(self.encoder(x))
