"""WideResNet50-2 (Zagoruyko and Komodakis 2016, arXiv:1605.07146) without its last stage.

It is ResNet50 with the inner convolutions of every block twice as wide.
Shape letters: n images, h x w cells, c channels (channels last). Batch norm is folded into the convolutions.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import HubFile
from train.backbones.layers import Conv, Draw
from train.backbones.resnet import ResNetSpec, make_resnet, shortcut

WIDENING = 2


class WideBottleneck(nnx.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; the 3 x 3 has the stride, as in torchvision."""

    expansion = 4
    convolutions = 3

    def __init__(self, channels: int, width: int, *, stride: int, rngs: Draw):
        inner = width * WIDENING
        self.conv1 = Conv(channels, inner, 1, rngs=rngs)
        self.conv2 = Conv(inner, inner, 3, stride=stride, padding=1, rngs=rngs)
        self.conv3 = Conv(inner, width * self.expansion, 1, gain=1.0, rngs=rngs)
        self.shortcut = shortcut(channels, width * self.expansion, stride, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = self.conv3(jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(x)))))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


WIDE_RESNET50_2_SPEC = ResNetSpec(depths=(3, 4, 6), widths=(64, 128, 256), stem=64, block=WideBottleneck)
WIDE_RESNET50_2 = make_resnet(
    "wide_resnet50_2",
    WIDE_RESNET50_2_SPEC,
    image_size=224,
    # What timm called wide_resnet50_2 when the ports of FastFlow were measured; tv_in1k, torchvision's, fits as well.
    hub=HubFile("timm/wide_resnet50_2.racm_in1k"),
)
