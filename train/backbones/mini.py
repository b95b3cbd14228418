"""A backbone for tests and trials: three small stages with random weights."""

import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import IMAGENET, Backbone, Tap
from train.backbones.layers import Conv, Draw

WIDTHS = (16, 32, 64)


class Mini(nnx.Module):
    def __init__(self, *, rngs: Draw):
        widths = (3, 8, *WIDTHS)
        self.convs = nnx.List([Conv(a, b, 3, stride=2, padding=1, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n _h _w _c"], ...]:
        maps = []
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
            maps.append(x)
        return tuple(maps[1:])


MINI = Backbone(
    name="mini",
    image_size=64,
    size_multiple=16,
    taps=tuple(Tap(f"stage{k + 1}", 4 * 2**k, width) for k, width in enumerate(WIDTHS)),
    normalisation=IMAGENET,
    build=lambda image_size, rngs: Mini(rngs=rngs),
)
