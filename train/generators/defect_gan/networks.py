"""Defect-GAN's generator as a function to be exported."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.model import Block, Generator
from train.generators.defect_gan.sample import laid_over
from train.networks import Array as Shaped
from train.networks import Network


def networks(run: Any) -> Sequence[Network]:
    """Of a TrainedGenerator: generator. The noise is an input, so that an engine draws what JAX draws.

    It gives grey levels from 0 to 255, to be rounded: TensorRT has no uint8 but at the very end of a graph.
    """
    config: DefectGANConfig = run.config
    weights = _plain(run.weights)
    size, controls = config.image_size, config.control_channels

    def generator(
        image: UInt8[Array, "n s s 3"],
        control: Float[Array, "n s s k"],
        noise: Float[Array, "n z"],
        strength: Float[Array, " n"],
    ) -> tuple[Float[Array, "n s s 3"], Float[Array, "n s s"]]:
        return laid_over(weights, image, control, noise, strength, config)

    def without_noise(
        image: UInt8[Array, "n s s 3"], control: Float[Array, "n s s k"], strength: Float[Array, " n"]
    ) -> tuple[Float[Array, "n s s 3"], Float[Array, "n s s"]]:
        return laid_over(weights, image, control, jnp.zeros((image.shape[0], 0)), strength, config)

    inputs = {
        "image": Shaped(("batch", size, size, 3), np.uint8, 256),
        "control": Shaped(("batch", size, size, controls)),
        "noise": Shaped(("batch", config.noise_numbers)),
        "strength": Shaped(("batch",)),
    }
    if not config.noise:
        del inputs["noise"]
    return (Network("generator", generator if config.noise else without_noise, inputs, ("drawn", "mask")),)


def _plain(weights: Generator) -> Generator:
    """The same network with plain convolutions: engines have forms of their own."""
    generator: Generator = nnx.clone(weights)
    for block in generator.blocks:
        if isinstance(block, Block):
            block.form = "plain"
    return generator
