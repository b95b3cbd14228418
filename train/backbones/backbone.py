"""What FastFlow knows of a backbone: a published network, frozen, cut after its last tap."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flax import nnx

from train.backbones.layers import Draw
from train.backbones.layout import Layout, Shape


@dataclass(frozen=True)
class Tap:
    """A place in the network whose output is a feature map."""

    name: str
    stride: int  # image pixels per cell
    channels: int


@dataclass(frozen=True)
class Normalisation:
    """(image - mean) / std per channel, on images scaled to 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MINUS_ONE_TO_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    name: str = "model.safetensors"


@dataclass(frozen=True)
class Backbone:
    """A network by its name; holds no arrays.

    `build` draws random weights, or with None gives shapes alone. Its module maps normalised images [n, h, w, 3] to one
    feature map [n, h, w, c] per tap, for the image size that it was built for and any n.
    """

    name: str
    image_size: int  # side of the square that it was published with, pixels
    size_multiple: int  # the side must be a multiple of it
    taps: tuple[Tap, ...]
    normalisation: Normalisation
    build: Callable[[int, Draw], nnx.Module]
    layouts: tuple[Layout, ...] = ()  # of published files; none: the weights are always random
    hub: HubFile | None = None
    only_published_size: bool = False  # its position embedding fits one size, and nothing published resizes it

    @property
    def pretrained(self) -> bool:
        """False: there are no published weights; the network is for tests and trials."""
        return bool(self.layouts)

    @cached_property
    def parameter_count(self) -> int:
        """Numbers of the frozen network at the published size, up to the last tap, the norm behind it included.

        Batch norm is folded into the convolution before it: one bias per channel.
        """
        return sum(math.prod(shape) for shape in self.published_leaves.values())

    @cached_property
    def published_leaves(self) -> dict[str, Shape]:
        """Dotted path -> shape of every array at the published size."""
        return leaf_shapes(self, self.image_size)


def abstract(backbone: Backbone, image_size: int) -> nnx.Module:
    """The module with shapes in place of arrays."""
    return backbone.build(image_size, None)


def leaf_shapes(backbone: Backbone, image_size: int) -> dict[str, Shape]:
    """Dotted path -> shape of every array."""
    flat = nnx.to_flat_state(nnx.state(abstract(backbone, image_size)))
    return {dotted(path): tuple(leaf.shape) for path, leaf in flat}


def dotted(path: Iterable[Any]) -> str:
    return ".".join(map(str, path))
