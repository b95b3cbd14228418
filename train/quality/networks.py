"""The networks whose features images are compared by, and what a distance on each of them is called.

Only the FID's own InceptionV3 gives a FID. Any other gives a Fréchet distance on features that are named with it, and
figures on two networks have nothing to do with each other.
Shape letters: n images, h x w pixels or cells, c channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.backbones.backbone import Backbone
from train.backbones.errors import WeightsError
from train.backbones.inception import INCEPTION_V3_FID, INCEPTIONS, inception_of, is_inception
from train.backbones.pretrained import features, find_weights, identified, load_pretrained, random_weights
from train.backbones.registry import BACKBONES
from train.backbones.weight_file import WeightFile, open_weights
from train.chunks import in_chunks
from train.config import ConfigError

AT_ONCE = 16  # images
NETWORKS = {**INCEPTIONS, **BACKBONES}


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network with its weights."""

    backbone: Backbone
    module: nnx.Module
    weights: str  # the file's name, or where else they are from

    @property
    def is_fid(self) -> bool:
        return self.backbone.name == INCEPTION_V3_FID.name

    @property
    def frechet(self) -> str:
        """What the Fréchet distance on its pooled features is called."""
        return "FID" if self.is_fid else f"Fréchet distance on {self._features} features"

    @property
    def kernel(self) -> str:
        return "KID" if self.is_fid else f"kernel distance on {self._features} features"

    @property
    def perceptual(self) -> str:
        taps = self.backbone.taps
        depths = taps[0].name if len(taps) == 1 else f"{taps[0].name} to {taps[-1].name}"
        return f"perceptual distance on {self.backbone.name} {depths}, all channels alike (not LPIPS)"

    @property
    def _features(self) -> str:
        return f"{self.backbone.name} {self.backbone.taps[-1].name}"

    def pooled(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n c"]:
        """The last tap's mean over all places, of images resized to the side that the network was published with."""
        return self._all(self._pooled, images)[0].astype(np.float64)

    def maps(self, images: UInt8[np.ndarray, "n h w 3"]) -> tuple[Float[np.ndarray, "n _h _w _c"], ...]:
        """Every tap, of images at the nearest size that the network takes."""
        return self._all(self._maps, images)

    def _all(self, run: Callable[[Any, Array], tuple[Array, ...]], images: np.ndarray) -> tuple[np.ndarray, ...]:
        found: tuple[np.ndarray, ...] = in_chunks(partial(run, self.module), images, min(AT_ONCE, len(images)))
        return found

    @cached_property
    def _pooled(self) -> Callable[[Any, Array], tuple[Array, ...]]:
        return jax.jit(partial(_pooled, self.backbone))

    @cached_property
    def _maps(self) -> Callable[[Any, Array], tuple[Array, ...]]:
        return jax.jit(partial(_maps, self.backbone))


def _pooled(backbone: Backbone, module: nnx.Module, images: Array) -> tuple[Array]:
    last = features(module, resized(images, backbone.image_size), backbone)[-1]
    return (jnp.mean(last, axis=(1, 2)),)


def _maps(backbone: Backbone, module: nnx.Module, images: Array) -> tuple[Array, ...]:
    return features(module, resized(images, _map_size(backbone, images.shape[1])), backbone)


def _map_size(backbone: Backbone, side: int) -> int:
    if backbone.name in INCEPTIONS or backbone.only_published_size:
        return backbone.image_size
    step = backbone.size_multiple
    return max(round(side / step), 1) * step


def resized(images: Array, side: int) -> Float[Array, "n _side _side 3"]:
    """Grey levels 0 to 255, bilinear with half-pixel centres and no smoothing before: pytorch-fid's rule."""
    grey_levels = images.astype(jnp.float32)
    if images.shape[1:3] == (side, side):
        return grey_levels
    shape = (images.shape[0], side, side, images.shape[3])
    larger: Array = jax.image.resize(grey_levels, shape, "bilinear", antialias=False)
    return larger


def feature_network(name: str) -> FeatureNetwork:
    """By the file of its weights, which says itself what it holds, or by its name.

    With a name, the weights are looked for in the cache folder, then on the hub; `mini` is drawn at random, for trials.

    Raises:
        ConfigError: there is neither such a file nor such a network.
        WeightsError: the file is of no known network, damaged, or there are no weights of that name.
    """
    path = Path(name)
    if path.is_file():
        file = open_weights(path)
        return _loaded(_network_of(file), path)
    if name not in NETWORKS:
        raise ConfigError(
            f"--features {name} is neither a file nor a network. Name a file of weights, or one of "
            f"{', '.join(NETWORKS)}."
        )
    backbone = NETWORKS[name]
    if not backbone.pretrained:
        return FeatureNetwork(backbone, random_weights(backbone, backbone.image_size, 0), "random")
    return _loaded(backbone, find_weights(backbone, None, named_by="--features FILE"))


def _network_of(file: WeightFile) -> Backbone:
    if is_inception(file):
        return inception_of(file)
    found = identified(file)
    if found is None:
        raise WeightsError(
            f"{file.path} holds the weights of no network that Faultline knows. Bring those of one of "
            f"{', '.join(name for name, backbone in NETWORKS.items() if backbone.pretrained)}."
        )
    return found


def _loaded(backbone: Backbone, path: Path) -> FeatureNetwork:
    return FeatureNetwork(backbone, load_pretrained(backbone, path, backbone.image_size), path.name)
