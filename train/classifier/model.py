"""ResNet18, ResNet34 and a smaller one (He et al. 2015, arXiv:1512.03385), to be trained: batch norm and all.

Shape letters: n images, h x w pixels or cells, c channels (channels last), k classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.layers import max_pool
from train.blocks.strided import Form, strided_conv

DEPTHS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}

Norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)
Kernel = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, arXiv:1502.01852


class HalvingConv(nnx.Module):
    """Stride 2, without a bias; `form` picks one of two that agree (train/blocks/strided.py)."""

    def __init__(self, channels: int, features: int, size: int, *, form: Form, rngs: nnx.Rngs):
        self.form = form
        self.kernel = nnx.Param(Kernel(rngs.params(), (size, size, channels, features)))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        kernel = self.kernel[...]
        if len(kernel) == 1:
            return x[:, ::2, ::2] @ kernel[0, 0]
        return strided_conv(x, kernel, (x.shape[1] + 1) // 2, len(kernel) // 2, self.form)


def _conv(channels: int, features: int, stride: int, form: Form, rngs: nnx.Rngs) -> nnx.Module:
    if stride == 2:
        return HalvingConv(channels, features, 3, form=form, rngs=rngs)
    return nnx.Conv(channels, features, (3, 3), padding=1, use_bias=False, kernel_init=Kernel, rngs=rngs)


class Block(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels: int, features: int, stride: int, *, form: Form, rngs: nnx.Rngs):
        self.conv1, self.norm1 = _conv(channels, features, stride, form, rngs), Norm(features, rngs=rngs)
        self.conv2, self.norm2 = _conv(features, features, 1, form, rngs), Norm(features, rngs=rngs)
        halving = stride == 2
        self.shortcut = HalvingConv(channels, features, 1, form=form, rngs=rngs) if halving else None
        self.shortcut_norm = Norm(features, rngs=rngs) if halving else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return jax.nn.relu(y + x)


class Classifier(nnx.Module):
    """Normalised images to the features before the last layer; `classes` and `source` are what reads them."""

    def __init__(
        self, network: str, width: int, outputs: int, *, small_stem: bool, source: bool, form: Form, rngs: nnx.Rngs
    ):
        self.small_stem = small_stem
        self.stem = HalvingConv(3, width, 3 if small_stem else 7, form=form, rngs=rngs)
        self.stem_norm = Norm(width, rngs=rngs)
        blocks, channels = [], width
        for number, depth in enumerate(DEPTHS[network]):
            features = width * 2**number
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(Block(channels, features, stride, form=form, rngs=rngs))
                channels = features
        self.blocks = nnx.List(blocks)
        self.classes = nnx.Linear(channels, outputs, rngs=rngs)
        self.source = nnx.Linear(channels, 1, rngs=rngs) if source else None

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        x = jax.nn.relu(self.stem_norm(self.stem(x)))
        x = x if self.small_stem else max_pool(x)
        for block in self.blocks:
            x = block(x)
        return jnp.mean(x, axis=(1, 2))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def reversed_gradient(x: Float[Array, "n c"], weight: float) -> Float[Array, "n c"]:
    """The identity, whose gradient is -weight (Ganin and Lempitsky 2015, arXiv:1409.7495, section 3).

    What reads it learns to tell sources apart, and the features below it learn that they can't be told apart.
    """
    return x


def _forward(x: Array, weight: float) -> tuple[Array, None]:
    return x, None


def _backward(weight: float, residual: None, gradient: Array) -> tuple[Array]:
    return (-weight * gradient,)


reversed_gradient.defvjp(_forward, _backward)
