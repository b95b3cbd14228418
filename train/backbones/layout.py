"""Published key layouts: which tensors of a file make which arrays of our network.

A layout maps the path of one of our modules (or of one array) to the part of the file that it is made of. PyTorch
stores convolutions as [o, i, h, w] and linear maps as [o, i]; ours are [h, w, i, o] and [i, o].
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

Shape = tuple[int, ...]
Read = Callable[[str], np.ndarray]  # published key -> tensor

PARALLEL = "module."  # what PyTorch's DataParallel puts before every key; CaiT's own files have it
BATCH_NORM_EPSILON = 1e-5  # torchvision's, timm's and transformers' ResNets


@runtime_checkable
class Part(Protocol):
    """A piece of a published file."""

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        """Key -> shape in the file, for our arrays of these shapes."""

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Our arrays by name, for our arrays of these shapes."""


@dataclass(frozen=True)
class ConvPart:
    """A convolution, with a bias where ours has one."""

    key: str

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        return {f"{self.key}.weight": _to_oihw(leaves["kernel"])} | _bias(leaves, f"{self.key}.bias")

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        kernel = {"kernel": read(f"{self.key}.weight").transpose(2, 3, 1, 0)}
        return kernel | ({"bias": read(f"{self.key}.bias")} if "bias" in leaves else {})


@dataclass(frozen=True)
class ConvNormPart:
    """A convolution without a bias, then batch norm with its running statistics: folded into one convolution."""

    conv: str
    norm: str
    epsilon: float = BATCH_NORM_EPSILON

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        of_norm = ("weight", "bias", "running_mean", "running_var")
        kernel = {f"{self.conv}.weight": _to_oihw(leaves["kernel"])}
        return kernel | {f"{self.norm}.{name}": leaves["bias"] for name in of_norm}

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """In float64; rounded once, at the end."""
        weight, shift, mean, variance = (
            read(f"{self.norm}.{name}").astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(variance + self.epsilon)
        kernel = read(f"{self.conv}.weight").astype(np.float64).transpose(2, 3, 1, 0) * scale
        return {"kernel": kernel, "bias": shift - mean * scale}


@dataclass(frozen=True)
class LinearPart:
    """A linear map, with a bias where ours has one; of several keys, the maps side by side (query, key and value)."""

    keys: tuple[str, ...]
    as_conv: bool = False  # the file has it as a convolution of 1 x 1

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        channels, features = leaves["kernel"]
        each = features // len(self.keys)
        weight: Shape = (each, channels, 1, 1) if self.as_conv else (each, channels)
        biases: dict[str, Shape] = {f"{key}.bias": (each,) for key in self.keys} if "bias" in leaves else {}
        return {f"{key}.weight": weight for key in self.keys} | biases

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        weight = np.concatenate([read(f"{key}.weight") for key in self.keys])
        kernel = {"kernel": (weight[:, :, 0, 0] if self.as_conv else weight).T}
        return kernel | ({"bias": np.concatenate([read(f"{k}.bias") for k in self.keys])} if "bias" in leaves else {})


@dataclass(frozen=True)
class NormPart:
    """Layer norm or group norm."""

    key: str

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        return {f"{self.key}.weight": leaves["scale"], f"{self.key}.bias": leaves["bias"]}

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        return {"scale": read(f"{self.key}.weight"), "bias": read(f"{self.key}.bias")}


@dataclass(frozen=True)
class ArrayPart:
    """One array, as it is."""

    key: str

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        return {self.key: leaves[""]}

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        return {"": read(self.key)}


@dataclass(frozen=True)
class Layout:
    """The keys of one family of files."""

    name: str  # who publishes files like it
    parts: Mapping[str, Part]  # path in our network -> part of the file
    unused: str  # pattern of published keys that the taps don't need: heads, later blocks, counters
    prefixes: tuple[str, ...] = ()  # may stand before keys: a model that holds the network stores them so

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        """Key -> shape of all that is used, for a network of these arrays."""
        shapes: dict[str, Shape] = {}
        for path, part in self.parts.items():
            shapes |= part.published(_below(path, leaves))
        return shapes

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Path -> array of the whole network."""
        arrays = {}
        for path, part in self.parts.items():
            for name, array in part.convert(read, _below(path, leaves)).items():
                arrays[f"{path}.{name}" if name else path] = array
        return arrays

    def plain(self, key: str) -> str:
        """The key without what may stand before it."""
        for prefix in (PARALLEL, *self.prefixes):
            key = key.removeprefix(prefix)
        return key

    def ignores(self, key: str) -> bool:
        return re.fullmatch(self.unused, key) is not None


def parts_of(leaves: Mapping[str, Shape], key_of: Callable[[str], str], as_conv: str = "") -> dict[str, Part]:
    """A part for every layer of a network, by what the layer holds.

    Args:
        leaves: dotted path -> shape of every array of the network.
        key_of: dotted path of a layer, or of an array that is no layer's -> its name in the file.
        as_conv: pattern of the paths of linear maps that the file has as convolutions.
    """
    parts: dict[str, Part] = {}
    for leaf, shape in leaves.items():
        path, _, name = leaf.rpartition(".")
        if name == "kernel" and len(shape) == 4:
            parts[path] = ConvPart(key_of(path))
        elif name == "kernel":
            parts[path] = LinearPart((key_of(path),), as_conv=re.fullmatch(as_conv, path) is not None)
        elif name == "scale":
            parts[path] = NormPart(key_of(path))
        elif name != "bias":
            parts[leaf] = ArrayPart(key_of(leaf))
    return parts


def _bias(leaves: Mapping[str, Shape], key: str) -> dict[str, Shape]:
    return {key: leaves["bias"]} if "bias" in leaves else {}


def _below(path: str, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
    below = {leaf.removeprefix(f"{path}."): shape for leaf, shape in leaves.items() if leaf.startswith(f"{path}.")}
    return below if path not in leaves else {"": leaves[path]}


def _to_oihw(shape: Shape) -> Shape:
    height, width, channels, features = shape
    return features, channels, height, width
