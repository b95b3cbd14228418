"""ResNet (He et al. 2015, arXiv:1512.03385): ResNet18 without its last stage; the frame of WideResNet50-2.

Shape letters: n images, h x w pixels or cells, c channels (channels last). Batch norm is folded into the convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import IMAGENET, Backbone, HubFile, Tap
from train.backbones.layers import Conv, Draw, max_pool
from train.backbones.layout import ConvNormPart, ConvPart, Layout, Part


@runtime_checkable
class Residual(Protocol):
    """What a stage is made of. (channels, width, stride=, rngs=) -> module; width is the stage's, before expansion."""

    expansion: int
    convolutions: int

    def __call__(self, channels: int, width: int, *, stride: int, rngs: Draw) -> nnx.Module: ...


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1
    convolutions = 2

    def __init__(self, channels: int, width: int, *, stride: int, rngs: Draw):
        self.conv1 = Conv(channels, width, 3, stride=stride, padding=1, rngs=rngs)
        self.conv2 = Conv(width, width, 3, padding=1, gain=1.0, rngs=rngs)
        self.shortcut = shortcut(channels, width, stride, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = self.conv2(jax.nn.relu(self.conv1(x)))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def shortcut(channels: int, features: int, stride: int, rngs: Draw) -> Conv | None:
    """Where a block changes the shape, a 1 x 1 convolution stands in for its input."""
    if stride == 1 and channels == features:
        return None
    return Conv(channels, features, 1, stride=stride, gain=1.0, rngs=rngs)


class ResNet(nnx.Module):
    """Stem, then the stages; the output of each stage is a tap."""

    def __init__(self, spec: "ResNetSpec", *, rngs: Draw):
        self.stem = Conv(3, spec.stem, 7, stride=2, padding=3, rngs=rngs)
        channels, stages = spec.stem, []
        for number, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
            stage = []
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                stage.append(spec.block(channels, width, stride=stride, rngs=rngs))
                channels = width * spec.block.expansion
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n _h _w _c"], ...]:
        x = max_pool(jax.nn.relu(self.stem(x)))
        maps = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return tuple(maps)


@dataclass(frozen=True)
class ResNetSpec:
    depths: tuple[int, ...]  # blocks per stage that is used
    widths: tuple[int, ...]
    stem: int
    block: Residual


def make_resnet(name: str, spec: ResNetSpec, *, image_size: int, hub: HubFile | None) -> Backbone:
    """A backbone whose taps are the stages that `spec` names, of strides 4, 8, 16."""
    taps = tuple(
        Tap(f"layer{number + 1}", 4 * 2**number, width * spec.block.expansion)
        for number, width in enumerate(spec.widths)
    )
    return Backbone(
        name=name,
        image_size=image_size,
        size_multiple=taps[-1].stride,
        taps=taps,
        normalisation=IMAGENET,
        build=lambda image_size, rngs: ResNet(spec, rngs=rngs),
        layouts=(_torchvision(spec), _folded(spec), _transformers(spec)),
        hub=hub,
    )


def _torchvision(spec: ResNetSpec) -> Layout:
    return Layout(
        "torchvision and timm",
        _parts(
            spec,
            lambda: ConvNormPart("conv1", "bn1"),
            lambda block, k: ConvNormPart(f"layer{block}.conv{k + 1}", f"layer{block}.bn{k + 1}"),
            lambda block: ConvNormPart(f"layer{block}.downsample.0", f"layer{block}.downsample.1"),
            first=1,
        ),
        unused=rf"layer{len(spec.depths) + 1}\..*|fc\.(weight|bias)|.*\.num_batches_tracked",
    )


def _folded(spec: ResNetSpec) -> Layout:
    return Layout(
        "torchvision with batch norm folded",
        _parts(
            spec,
            lambda: ConvPart("conv1"),
            lambda block, k: ConvPart(f"layer{block}.conv{k + 1}"),
            lambda block: ConvPart(f"layer{block}.downsample.0"),
            first=1,
        ),
        unused=rf"layer{len(spec.depths) + 1}\..*|fc\.(weight|bias)",
    )


def _transformers(spec: ResNetSpec) -> Layout:
    def conv_norm(prefix: str) -> Part:
        return ConvNormPart(f"{prefix}.convolution", f"{prefix}.normalization")

    return Layout(
        "transformers",
        _parts(
            spec,
            lambda: conv_norm("embedder.embedder"),
            lambda block, k: conv_norm(f"encoder.stages.{block.replace('.', '.layers.')}.layer.{k}"),
            lambda block: conv_norm(f"encoder.stages.{block.replace('.', '.layers.')}.shortcut"),
            first=0,
        ),
        unused=rf"encoder\.stages\.{len(spec.depths)}\..*|classifier\.1\.(weight|bias)|.*\.num_batches_tracked",
        prefixes=("resnet.",),
    )


def _parts(
    spec: ResNetSpec,
    stem: Callable[[], Part],
    conv: Callable[[str, int], Part],
    downsample: Callable[[str], Part],
    *,
    first: int,
) -> dict[str, Part]:
    """Part by part of our network; blocks are numbered "stage.block", the first stage being `first`."""
    parts = {"stem": stem()}
    channels = spec.stem
    for number, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        for index in range(depth):
            ours, theirs = f"stages.{number}.{index}", f"{number + first}.{index}"
            for k in range(spec.block.convolutions):
                parts[f"{ours}.conv{k + 1}"] = conv(theirs, k)
            if index == 0 and (number > 0 or channels != width * spec.block.expansion):
                parts[f"{ours}.shortcut"] = downsample(theirs)
            channels = width * spec.block.expansion
    return parts


RESNET18_SPEC = ResNetSpec(depths=(2, 2, 2), widths=(64, 128, 256), stem=64, block=BasicBlock)
RESNET18 = make_resnet("resnet18", RESNET18_SPEC, image_size=224, hub=HubFile("timm/resnet18.tv_in1k"))
