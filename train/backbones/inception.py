"""InceptionV3 (Szegedy et al. 2015, arXiv:1512.00567) up to its last map, of which the FID takes the mean.

Two networks share all shapes and keys and differ in three places, so a file's last layer says which one it is of:

- The FID's own (1008 classes; `pt_inception-2015-12-05-6726825d.pth` is TensorFlow's graph of that date in PyTorch's
  keys, and only on it is a Fréchet distance called FID): average pooling counts the pixels inside the image alone, and
  the last block takes the maximum where all others take the average.
- torchvision's (1000 classes; also timm's `inception_v3.tv_in1k`): the zeros around the image count in every average.

Both see RGB scaled to [-1, 1], resized to 299 x 299 bilinearly with half-pixel centres and no smoothing before: the
rule of pytorch-fid, not of TensorFlow 1, whose pixels lie differently by up to half a pixel.
Shape letters: n images, h x w pixels or cells, c channels (channels last). Batch norm is folded into the convolutions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.backbone import MINUS_ONE_TO_ONE, Backbone, HubFile, Tap
from train.backbones.errors import WeightsError
from train.backbones.layers import Draw, drawn, filled
from train.backbones.layout import ConvNormPart, Layout
from train.backbones.weight_file import WeightFile

EPSILON = 1e-3  # of its batch norms
CLASSES = {1008: "inception_v3_fid", 1000: "inception_v3"}  # rows of the last layer -> network

Pooling = Literal["average", "average_inside", "maximum", "halving"]


@dataclass(frozen=True)
class Step:
    """A convolution by its published name. Of stride 1 it keeps the map's size; of stride 2 nothing is padded."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


@dataclass(frozen=True)
class MixedSpec:
    """Branches side by side; in a branch, a tuple of steps stands for both on the same input. The pool comes last."""

    branches: tuple[tuple[Step | tuple[Step, Step], ...], ...]
    pool_features: int  # of the convolution behind the pool; 0: none, and the pool halves the map


class ConvRelu(nnx.Module):
    def __init__(self, channels: int, step: Step, *, padded: bool, rngs: Draw):
        height, width = step.kernel
        self.stride = step.stride
        self.padding = tuple((side // 2, side // 2) if padded else (0, 0) for side in step.kernel)
        self.kernel = drawn(rngs, (height, width, channels, step.features), height * width * channels, 2.0)
        self.bias = filled(rngs, step.features, 0.0)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y + self.bias[...])


class Mixed(nnx.Module):
    """A block of branches, their maps concatenated."""

    def __init__(self, channels: int, spec: MixedSpec, pooling: Pooling, *, rngs: Draw):
        self.spec, self.pooling = spec, pooling
        convs = {}
        for branch in spec.branches:
            width = channels
            for steps in branch:
                fork = steps if isinstance(steps, tuple) else (steps,)
                for step in fork:
                    convs[step.name] = ConvRelu(width, step, padded=step.stride == 1, rngs=rngs)
                width = sum(step.features for step in fork)
        if spec.pool_features:
            convs["branch_pool"] = ConvRelu(channels, Step("branch_pool", spec.pool_features), padded=True, rngs=rngs)
        self.convs = nnx.Dict(convs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        maps = []
        for branch in self.spec.branches:
            y = x
            for steps in branch:
                fork = steps if isinstance(steps, tuple) else (steps,)
                y = jnp.concatenate([self.convs[step.name](y) for step in fork], axis=-1)
            maps.append(y)
        pooled = pool(x, self.pooling)
        maps.append(self.convs["branch_pool"](pooled) if self.spec.pool_features else pooled)
        return jnp.concatenate(maps, axis=-1)


def pool(x: Float[Array, "n h w c"], pooling: Pooling) -> Float[Array, "n h2 w2 c"]:
    """3 x 3. `halving` is a maximum of stride 2 without a border; the others keep the map's size."""
    window, whole = (1, 3, 3, 1), (1, 1, 1, 1)
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    if pooling == "halving":
        halved: Array = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
        return halved
    if pooling == "maximum":
        largest: Array = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, whole, border)
        return largest
    total: Array = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, whole, border)
    if pooling == "average":
        return total / 9
    inside: Array = jax.lax.reduce_window(
        jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, jax.lax.add, window, whole, border
    )
    return total / inside


def _a(pool_features: int) -> MixedSpec:
    return MixedSpec(
        (
            (Step("branch1x1", 64),),
            (Step("branch5x5_1", 48), Step("branch5x5_2", 64, (5, 5))),
            (
                Step("branch3x3dbl_1", 64),
                Step("branch3x3dbl_2", 96, (3, 3)),
                Step("branch3x3dbl_3", 96, (3, 3)),
            ),
        ),
        pool_features,
    )


def _c(width: int) -> MixedSpec:
    return MixedSpec(
        (
            (Step("branch1x1", 192),),
            (
                Step("branch7x7_1", width),
                Step("branch7x7_2", width, (1, 7)),
                Step("branch7x7_3", 192, (7, 1)),
            ),
            (
                Step("branch7x7dbl_1", width),
                Step("branch7x7dbl_2", width, (7, 1)),
                Step("branch7x7dbl_3", width, (1, 7)),
                Step("branch7x7dbl_4", width, (7, 1)),
                Step("branch7x7dbl_5", 192, (1, 7)),
            ),
        ),
        192,
    )


_B = MixedSpec(
    (
        (Step("branch3x3", 384, (3, 3), 2),),
        (
            Step("branch3x3dbl_1", 64),
            Step("branch3x3dbl_2", 96, (3, 3)),
            Step("branch3x3dbl_3", 96, (3, 3), 2),
        ),
    ),
    0,
)
_D = MixedSpec(
    (
        (Step("branch3x3_1", 192), Step("branch3x3_2", 320, (3, 3), 2)),
        (
            Step("branch7x7x3_1", 192),
            Step("branch7x7x3_2", 192, (1, 7)),
            Step("branch7x7x3_3", 192, (7, 1)),
            Step("branch7x7x3_4", 192, (3, 3), 2),
        ),
    ),
    0,
)
_E = MixedSpec(
    (
        (Step("branch1x1", 320),),
        (Step("branch3x3_1", 384), (Step("branch3x3_2a", 384, (1, 3)), Step("branch3x3_2b", 384, (3, 1)))),
        (
            Step("branch3x3dbl_1", 448),
            Step("branch3x3dbl_2", 384, (3, 3)),
            (Step("branch3x3dbl_3a", 384, (1, 3)), Step("branch3x3dbl_3b", 384, (3, 1))),
        ),
    ),
    192,
)
STEM = (  # with a halving pool after the third and the last
    Step("Conv2d_1a_3x3", 32, (3, 3), 2),
    Step("Conv2d_2a_3x3", 32, (3, 3)),
    Step("Conv2d_2b_3x3", 64, (3, 3)),
    Step("Conv2d_3b_1x1", 80),
    Step("Conv2d_4a_3x3", 192, (3, 3)),
)
POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
PADDED = "Conv2d_2b_3x3"  # the stem's only one
MIXED = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _E,
    "Mixed_7c": _E,
}
FEATURES = 2048


class InceptionV3(nnx.Module):
    """Normalised images to the last map, [n, 8, 8, 2048] of 299 x 299 pixels."""

    def __init__(self, *, fid: bool, rngs: Draw):
        channels, stem, mixed = 3, {}, {}
        for step in STEM:
            stem[step.name] = ConvRelu(channels, step, padded=step.name == PADDED, rngs=rngs)
            channels = step.features
        for name, spec in MIXED.items():
            mixed[name] = Mixed(channels, spec, _pooling(name, spec, fid=fid), rngs=rngs)
            channels = (spec.pool_features or channels) + sum(
                sum(step.features for step in (branch[-1] if isinstance(branch[-1], tuple) else (branch[-1],)))
                for branch in spec.branches
            )
        self.stem, self.mixed = nnx.Dict(stem), nnx.Dict(mixed)

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n h2 w2 2048"]]:
        for step in STEM:
            x = self.stem[step.name](x)
            x = pool(x, "halving") if step.name in POOLED_AFTER else x
        for name in MIXED:
            x = self.mixed[name](x)
        return (x,)


def _pooling(name: str, spec: MixedSpec, *, fid: bool) -> Pooling:
    if not spec.pool_features:
        return "halving"
    if not fid:
        return "average"
    return "maximum" if name == "Mixed_7c" else "average_inside"


def _published() -> Iterator[tuple[str, str]]:
    """Path in our network, name in the file."""
    for step in STEM:
        yield f"stem.{step.name}", step.name
    for name, spec in MIXED.items():
        for branch in spec.branches:
            for steps in branch:
                for step in steps if isinstance(steps, tuple) else (steps,):
                    yield f"mixed.{name}.convs.{step.name}", f"{name}.{step.name}"
        if spec.pool_features:
            yield f"mixed.{name}.convs.branch_pool", f"{name}.branch_pool"


_PARTS = {ours: ConvNormPart(f"{theirs}.conv", f"{theirs}.bn", EPSILON) for ours, theirs in _published()}
_UNUSED = r"AuxLogits\..*|fc\.(weight|bias)|.*\.num_batches_tracked"


def _make(name: str, layout: str, *, fid: bool, hub: HubFile | None) -> Backbone:
    return Backbone(
        name=name,
        image_size=299,
        size_multiple=1,
        taps=(Tap("pool3", 32, FEATURES),),
        normalisation=MINUS_ONE_TO_ONE,
        build=lambda image_size, rngs: InceptionV3(fid=fid, rngs=rngs),
        layouts=(Layout(layout, _PARTS, _UNUSED),),
        hub=hub,
    )


INCEPTION_V3_FID = _make("inception_v3_fid", "pytorch-fid", fid=True, hub=None)
INCEPTION_V3 = _make("inception_v3", "torchvision and timm", fid=False, hub=HubFile("timm/inception_v3.tv_in1k"))
# Not among the backbones that FastFlow may choose: their unpadded convolutions give maps of odd sizes.
INCEPTIONS: Mapping[str, Backbone] = {backbone.name: backbone for backbone in (INCEPTION_V3_FID, INCEPTION_V3)}


def is_inception(file: WeightFile) -> bool:
    return f"{STEM[0].name}.conv.weight" in file.shapes


def inception_of(file: WeightFile) -> Backbone:
    """Which of the two a file is of.

    Raises:
        WeightsError: its last layer, which alone tells them apart, is missing or of another size.
    """
    shape = file.shapes.get("fc.weight")
    if shape is None or shape[0] not in CLASSES:
        found = "no fc.weight" if shape is None else f"fc.weight of {shape[0]} classes"
        raise WeightsError(
            f"{file.path} holds an InceptionV3 with {found}, so it can't be told whether it is the FID's own (1008 "
            "classes) or torchvision's (1000). Bring the whole file: pt_inception-2015-12-05-6726825d.pth for FID."
        )
    return INCEPTIONS[CLASSES[shape[0]]]
