"""Affine coupling steps of FastFlow (arXiv:2111.07677); sheet: "Flow (one independent flow per scale)", steps 1 to 5.

"eq." means RealNVP, whose couplings FastFlow stacks (Dinh et al. 2017, arXiv:1605.08803v3).
Shape letters: n images, h x w feature cells, c channels (channels last).
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Form = Literal["plain", "fast"]
Compute = Literal["float32", "bfloat16"]

SUBNET_SCALE = 0.1  # FrEIA multiplies the subnet's output by it before anything else
AFFINE_INIT = 2 * np.log(np.expm1(5.0))  # of gamma, so that the gain is 1

Maps = Float[Array, "n h w c"]
LogDet = Float[Array, "n h w"]  # per cell; summed over cells it is log |det J| of an image


class Permutation(nnx.Variable):
    """A fixed order of channels: drawn once, never trained, part of every checkpoint."""


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the start of PyTorch's convolutions, kernels and biases alike."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -bound, bound)


class Subnet(nnx.Module):
    """conv k x k -> ReLU -> conv k x k, zero padding that keeps the size; what the couplings learn.

    With `compute` bfloat16 the convolutions run in it; parameters and what comes out keep the input's type.
    """

    def __init__(self, c_in: int, c_out: int, hidden: int, kernel: int, *, compute: Compute, rngs: nnx.Rngs):
        def conv(channels: int, features: int) -> nnx.Conv:
            start = torch_uniform(kernel * kernel * channels)
            dtype = jnp.bfloat16 if compute == "bfloat16" else None
            return nnx.Conv(
                channels, features, (kernel, kernel), kernel_init=start, bias_init=start, dtype=dtype, rngs=rngs
            )

        self.conv_in, self.conv_out = conv(c_in, hidden), conv(hidden, c_out)

    def __call__(self, x: Maps) -> Float[Array, "n h w _o"]:
        return self.conv_out(nnx.relu(self.conv_in(x))).astype(x.dtype)


class ActNorm(nnx.Module):
    """A gain and a shift per channel: Glow's ActNorm, learned from a constant start as in FrEIA (sheet, step 4)."""

    def __init__(self, channels: int):
        self.gamma = nnx.Param(jnp.full((channels,), AFFINE_INIT, jnp.float32))
        self.shift = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def gain(self) -> Float[Array, " c"]:
        """0.1 softplus(gamma) with beta 0.5; 1 at the start."""
        return 0.2 * jax.nn.softplus(0.5 * self.gamma[...])

    def __call__(self, x: Maps) -> tuple[Maps, Float[Array, ""]]:
        """Features and log |det J| of one cell."""
        gain = self.gain()
        return x * gain + self.shift[...], jnp.sum(jnp.log(gain))

    def inverse(self, z: Maps) -> Maps:
        return (z - self.shift[...]) / self.gain()


def scale_and_shift(raw: Float[Array, "n h w _both"], clamp: float) -> tuple[Maps, Maps]:
    """log s and t of eq. 5 from what a subnet gives; ours as in FrEIA, not eq. 5: |log s| stays below `clamp`."""
    raw_s, t = jnp.split(SUBNET_SCALE * raw, 2, axis=-1)
    return clamp * jnp.tanh(raw_s), t


class AlternateStep(nnx.Module):
    """One half of the channels scales and shifts the other; ActNorm; a fixed random permutation mixes the halves.

    This one-sided step is what matches the published parameter counts.
    """

    def __init__(
        self,
        channels: int,
        ratio: float,
        kernel: int,
        *,
        clamp: float,
        form: Form,
        compute: Compute = "float32",
        rngs: nnx.Rngs,
    ):
        self.kept, self.clamp = halves(channels)[0], clamp
        rest, hidden = channels - self.kept, hidden_channels(channels, ratio)
        self.subnet = Subnet(self.kept, 2 * rest, hidden, kernel, compute=compute, rngs=rngs)
        self.act_norm = ActNorm(channels)
        self.permutation = Permutation(jax.random.permutation(rngs.params(), channels))
        self.form = form

    def __call__(self, x: Maps) -> tuple[Maps, LogDet]:
        """Features to latent, with log |det dz/dx| per cell."""
        x_a, x_b = x[..., : self.kept], x[..., self.kept :]
        log_s, t = scale_and_shift(self.subnet(x_a), self.clamp)
        z_b = x_b * jnp.exp(log_s) + t  # eq. 5
        z, log_gain = self.act_norm(jnp.concatenate([x_a, z_b], axis=-1))  # eq. 4
        return permute(z, self.permutation[...], self.form), log_s.sum(-1) + log_gain  # eq. 6

    def inverse(self, z: Maps) -> Maps:
        """Latent to features; exact up to rounding."""
        z = self.act_norm.inverse(z[..., jnp.argsort(self.permutation[...])])
        z_a, z_b = z[..., : self.kept], z[..., self.kept :]
        log_s, t = scale_and_shift(self.subnet(z_a), self.clamp)
        return jnp.concatenate([z_a, (z_b - t) * jnp.exp(-log_s)], axis=-1)  # eq. 8


class DoubleStep(nnx.Module):
    """ActNorm, then both halves in turn: a moves b, then b moves a. The step as the seed text describes it."""

    def __init__(
        self,
        channels: int,
        ratio: float,
        kernel: int,
        *,
        clamp: float,
        form: Form,
        compute: Compute = "float32",
        rngs: nnx.Rngs,
    ):
        self.kept, self.clamp = halves(channels)[0], clamp
        rest, hidden = channels - self.kept, hidden_channels(channels, ratio)
        self.act_norm = ActNorm(channels)
        self.a_to_b = Subnet(self.kept, 2 * rest, hidden, kernel, compute=compute, rngs=rngs)
        self.b_to_a = Subnet(rest, 2 * self.kept, hidden, kernel, compute=compute, rngs=rngs)

    def __call__(self, x: Maps) -> tuple[Maps, LogDet]:
        """Features to latent, with log |det dz/dx| per cell."""
        x, log_gain = self.act_norm(x)
        a, b = x[..., : self.kept], x[..., self.kept :]
        log_s_b, t_b = scale_and_shift(self.a_to_b(a), self.clamp)
        b = b * jnp.exp(log_s_b) + t_b
        log_s_a, t_a = scale_and_shift(self.b_to_a(b), self.clamp)
        a = a * jnp.exp(log_s_a) + t_a
        return jnp.concatenate([a, b], axis=-1), log_s_a.sum(-1) + log_s_b.sum(-1) + log_gain

    def inverse(self, z: Maps) -> Maps:
        """Latent to features; exact up to rounding."""
        a, b = z[..., : self.kept], z[..., self.kept :]
        log_s_a, t_a = scale_and_shift(self.b_to_a(b), self.clamp)
        a = (a - t_a) * jnp.exp(-log_s_a)
        log_s_b, t_b = scale_and_shift(self.a_to_b(a), self.clamp)
        b = (b - t_b) * jnp.exp(-log_s_b)
        return self.act_norm.inverse(jnp.concatenate([a, b], axis=-1))


def halves(channels: int) -> tuple[int, int]:
    """Channels that stay and channels that are moved. ValueError for an odd number."""
    if channels % 2:
        raise ValueError(
            f"A coupling step halves its channels, but there are {channels}. "
            "Tap the backbone where their number is even."
        )
    return channels // 2, channels // 2


def hidden_channels(channels: int, ratio: float) -> int:
    """Width of a subnet: ratio times half the channels, at least 1."""
    return max(int(ratio * (channels // 2)), 1)


@partial(jax.jit, static_argnames="form")
def permute(x: Maps, order: Array, form: Form) -> Maps:
    """x[..., order]; in the fast form as a product, because the gradient of indexing is a scatter, slow on a CPU."""
    if form == "plain":
        return x[..., order]
    return x @ jax.nn.one_hot(order, x.shape[-1], axis=0, dtype=x.dtype)
