"""What paints: AdaBLDM's networks, the foreground predictor, and the masks of the defects that were learned from."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, UInt8

from train.generators.adabldm.autoencoder import Autoencoder
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.foreground import Discriminant, foregrounds
from train.generators.adabldm.trimap import TrimapEncoder
from train.generators.adabldm.unet import Denoiser


class AdaBLDMWeights(NamedTuple):
    """A tree of arrays. A sampler takes it for the networks."""

    autoencoder: Autoencoder
    text: Any  # ids -> context
    denoiser: Denoiser
    trimap_encoder: TrimapEncoder
    backbone: nnx.Module | None  # of the foreground predictor; None for a texture
    discriminant: Discriminant | None
    masks: dict[str, UInt8[Array, "_m s s"]]  # of each category's few defects, 1 inside


def foreground_of(
    weights: AdaBLDMWeights, config: AdaBLDMConfig, images: UInt8[Array, "n s s 3"]
) -> Bool[Array, "n s s"]:
    """Where a defect may be; of a texture everywhere. Traceable, so that nothing is checked here."""
    seen = config.seen
    if seen is None or weights.backbone is None or weights.discriminant is None:
        return jnp.ones(images.shape[:3], bool)
    return foregrounds(seen, weights.backbone, weights.discriminant, images)


def computing_in(dtype: Any, network: Any) -> Any:
    """A network whose weights are numbers of this type; those it was made of stay what they are."""
    return jax.tree.map(partial(jnp.asarray, dtype=dtype), network)
