"""A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) that marks defective pixels.

Five levels of strides 1, 2, 4, 8 and 16. Down: at strides 1 and 2, and with encoder `trained` at all five, two 3 x 3
convolutions each, with 2 x 2 max pooling between; else strides 4, 8 and 16 are the stages of a frozen backbone. Up:
nearest x2 upsampling, the level's own map beside it, two 3 x 3 convolutions. A 1 x 1 convolution gives one logit for
each pixel. Every 3 x 3 convolution is followed by group norm and ReLU: batches mix normal, real and pasted images, and
none should change how another is seen.
Shape letters: n images, h x w pixels or cells, c channels (channels last).
"""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import IMAGENET
from train.backbones.pretrained import features
from train.backbones.registry import find_backbone

LEVELS = 5
WIDEST = 8  # times the finest level's width
CHANNELS_PER_GROUP = 4
PRIOR = 0.01  # of a defective pixel, before anything is learned (Lin et al. 2017, RetinaNet, arXiv:1708.02002, 3.3)
TRAINED = "trained"

Kernel = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")  # He et al. 2015, arXiv:1502.01852


class Pair(nnx.Module):
    """Two 3 x 3 convolutions, each with group norm and ReLU."""

    def __init__(self, channels: int, features: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            nnx.Conv(c, features, (3, 3), use_bias=False, kernel_init=Kernel, rngs=rngs) for c in (channels, features)
        )
        groups = features // CHANNELS_PER_GROUP
        self.norms = nnx.List(nnx.GroupNorm(features, groups, rngs=rngs) for _ in range(2))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c2"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return x


class Segmenter(nnx.Module):
    def __init__(self, encoder: str, width: int, image_size: int, *, rngs: nnx.Rngs):
        """`width` is that of the finest level."""
        self.encoder = encoder
        widths = [min(2**level, WIDEST) * width for level in range(LEVELS)]
        seen = list(widths)  # channels of each level's map, finest first
        backbone = None if encoder == TRAINED else find_backbone(encoder)
        self.frozen = None if backbone is None else backbone.build(image_size, rngs)
        n_trained = LEVELS if backbone is None else LEVELS - len(backbone.taps)
        if backbone is not None:
            seen[n_trained:] = [tap.channels for tap in backbone.taps]
        self.down = nnx.List(Pair(a, b, rngs=rngs) for a, b in pairwise([3, *widths[:n_trained]]))
        below = [*widths[1:-1], seen[-1]]  # channels that come up to each level
        self.up = nnx.List(Pair(b + s, w, rngs=rngs) for b, s, w in zip(below, seen, widths, strict=False))
        self.head = nnx.Conv(
            width,
            1,
            (1, 1),
            kernel_init=nnx.initializers.normal(0.01),
            bias_init=nnx.initializers.constant(-math.log((1 - PRIOR) / PRIOR)),
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n h w"]:
        """Grey levels from 0 to 255 to logits of being defective."""
        maps = self._seen(images)
        x = maps[-1]
        for pair, beside in zip(reversed(self.up), reversed(maps[:-1]), strict=True):
            x = pair(jnp.concatenate([upsampled(x), beside], axis=-1))
        return self.head(x)[..., 0]

    def _seen(self, images: Array) -> list[Float[Array, "n _h _w _c"]]:
        """A map for each level, finest first."""
        mean, std = (jnp.array(values, jnp.float32) for values in (IMAGENET.mean, IMAGENET.std))
        x, maps = (images / 255 - mean) / std, []
        for level, pair in enumerate(self.down):
            x = pair(pooled(x) if level else x)
            maps.append(x)
        return maps if self.frozen is None else [*maps, *features(self.frozen, images, find_backbone(self.encoder))]


def pooled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """The largest of each 2 x 2.

    In pairs: the gradient of `max` divides by how many cells equal the largest, and where XLA computes the cells anew
    with other rounding, none does.
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def upsampled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Each cell as 2 x 2."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
