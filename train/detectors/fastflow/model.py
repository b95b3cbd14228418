"""FastFlow: 2D normalizing flows over backbone features (Yu et al. 2021, arXiv:2111.07677).

One flow per feature scale, each a stack of coupling steps (coupling.py). The frozen backbone is not part of this
module: it is in train/backbones, and what it makes of the training images is computed once.
Shape letters: n images, h x w feature cells, c channels (channels last).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from train.detectors.fastflow.config import FastFlowConfig
from train.detectors.fastflow.coupling import AlternateStep, DoubleStep, Form
from train.detectors.fastflow.normalisation import Normalise

Maps = Float[Array, "n h w c"]
Features = tuple[Float[Array, "n _h _w _c"], ...]
Cells = tuple[Bool[Array, "n _h _w"], ...]  # of each scale: whether any of a cell's pixels is judged


class Latent(NamedTuple):
    """One scale's latent z and its log |det dz/dx| per cell."""

    z: Maps
    log_det: Float[Array, "n h w"]


class Flow(nnx.Module):
    """K coupling steps in sequence, invertible."""

    def __init__(self, channels: int, config: FastFlowConfig, *, form: Form, rngs: nnx.Rngs):
        step = AlternateStep if config.coupling == "alternate" else DoubleStep
        self.steps = nnx.List(
            [
                step(
                    channels,
                    config.hidden_ratio,
                    kernel,
                    clamp=config.clamp,
                    form=form,
                    compute=config.compute,
                    rngs=rngs,
                )
                for kernel in config.kernel_sizes
            ]
        )

    def __call__(self, x: Maps) -> Latent:
        log_det = jnp.zeros(x.shape[:3], x.dtype)
        for step in self.steps:
            x, step_log_det = step(x)
            log_det = log_det + step_log_det
        return Latent(x, log_det)

    def inverse(self, z: Maps) -> Maps:
        for step in reversed(list(self.steps)):
            z = step.inverse(z)
        return z


class FastFlow(nnx.Module):
    """Features of all scales to their latents."""

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], config: FastFlowConfig, *, form: Form = "plain", rngs: nnx.Rngs
    ):
        """`shapes` are (h, w, c) of the feature maps."""
        self.normalise = nnx.List([Normalise(config.normalisation, shape) for shape in shapes])
        self.flows: Sequence[Callable[[Maps], Latent]] = nnx.List(
            [Flow(shape[-1], config, form=form, rngs=rngs) for shape in shapes]
        )

    def __call__(self, features: Features, judged: Cells | None = None) -> tuple[Latent, ...]:
        return self.latents(self.normalised(features, judged))

    def normalised(self, features: Features, judged: Cells | None = None) -> Features:
        cells = judged or (None,) * len(features)
        return tuple(normalise(x, only) for normalise, x, only in zip(self.normalise, features, cells, strict=True))

    def latents(self, normalised: Features) -> tuple[Latent, ...]:
        return tuple(flow(x) for flow, x in zip(self.flows, normalised, strict=True))
