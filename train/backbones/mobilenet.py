"""MobileNet V1 of width 0.25 (Howard et al. 2017, arXiv:1704.04861), as Keras publishes it: for edge devices.

Shape letters: n images, h x w pixels or cells, c channels (channels last). Batch norm is folded into the convolutions.
"""

from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import MINUS_ONE_TO_ONE, Backbone, Tap
from train.backbones.layers import Conv, Draw
from train.backbones.layout import ConvPart, Layout

# Of the 13 pairs after the stem.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
MULTIPLES = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)  # of the stem's width


@dataclass(frozen=True)
class MobileNetSpec:
    stem: int  # channels of the first convolution; the others are multiples of it
    taps: tuple[int, ...]  # numbers of the pairs that are tapped, counted from 1


class Pair(nnx.Module):
    """A depthwise 3 x 3 convolution, then a 1 x 1 that mixes the channels, each with ReLU6."""

    def __init__(self, channels: int, features: int, *, stride: int, rngs: Draw):
        self.depthwise = Conv(
            channels, channels, 3, stride=stride, padding=_padding(stride), groups=channels, rngs=rngs
        )
        self.pointwise = Conv(channels, features, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        return jax.nn.relu6(self.pointwise(jax.nn.relu6(self.depthwise(x))))


class MobileNet(nnx.Module):
    """Up to the last tap."""

    def __init__(self, spec: MobileNetSpec, *, rngs: Draw):
        self.taps = spec.taps
        self.stem = Conv(3, spec.stem, 3, stride=2, padding=_padding(2), rngs=rngs)
        widths = [spec.stem, *(spec.stem * multiple for multiple in MULTIPLES)]
        self.pairs = nnx.List(
            [Pair(widths[k], widths[k + 1], stride=STRIDES[k], rngs=rngs) for k in range(max(spec.taps))]
        )

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n _h _w _c"], ...]:
        x = jax.nn.relu6(self.stem(x))
        maps = []
        for number, pair in enumerate(self.pairs, start=1):
            x = pair(x)
            if number in self.taps:
                maps.append(x)
        return tuple(maps)


def _padding(stride: int) -> int | tuple[int, int]:
    """Keras pads a strided convolution on the right and at the bottom only."""
    return (0, 1) if stride == 2 else 1


def make_mobilenet(name: str, spec: MobileNetSpec) -> Backbone:
    taps = tuple(
        Tap(f"conv_pw_{number}", 2 * 2 ** STRIDES[:number].count(2), spec.stem * MULTIPLES[number - 1])
        for number in spec.taps
    )
    return Backbone(
        name=name,
        image_size=224,
        size_multiple=taps[-1].stride,
        taps=taps,
        normalisation=MINUS_ONE_TO_ONE,
        build=lambda image_size, rngs: MobileNet(spec, rngs=rngs),
        layouts=(_layout(spec),),
    )


def _layout(spec: MobileNetSpec) -> Layout:
    used = range(1, max(spec.taps) + 1)
    later = "|".join(str(number) for number in range(max(spec.taps) + 1, len(STRIDES) + 1))
    return Layout(
        "Keras with batch norm folded",
        {"stem": ConvPart("conv1")}
        | {f"pairs.{number - 1}.depthwise": ConvPart(f"conv_dw_{number}") for number in used}
        | {f"pairs.{number - 1}.pointwise": ConvPart(f"conv_pw_{number}") for number in used},
        unused=rf"conv_(dw|pw)_({later})\.(weight|bias)|conv_preds\.(weight|bias)",
    )


MOBILENET_V1_025 = make_mobilenet("mobilenet_v1_025", MobileNetSpec(stem=8, taps=(3, 5, 11)))
