"""Defect-GAN as one generator: networks, players, painting. README.md maps the paper to the functions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.detectors.anogan.watch import closeness
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.material import prepare
from train.generators.defect_gan.model import DefectGAN
from train.generators.defect_gan.networks import networks
from train.generators.defect_gan.players import Pairs, cycles_of, draw_noise, phases
from train.generators.defect_gan.sample import paint
from train.generators.defect_gan.sections import sections
from train.generators.defect_gan.watch import sentences
from train.generators.generator import Generator

PerImage = Float[Array, " n"]


def build(config: DefectGANConfig, rngs: nnx.Rngs) -> DefectGAN:
    return DefectGAN(config, rngs=rngs)


def validate(model: DefectGAN, pairs: Pairs, key: PRNGKeyArray, config: DefectGANConfig) -> dict[str, PerImage]:
    """Of what is drawn on normal images that training never sees, and of training's defective images, restored."""
    for_cycles, for_noise = jax.random.split(key)
    cycles = cycles_of(pairs, for_cycles, config, augment=False)
    n, m = len(pairs.normal), len(cycles.images)
    layer = model.generator(cycles.images, cycles.there, draw_noise(jax.random.split(for_noise, m), config))
    drawn = layer.over(cycles.images)
    means = layer.mask.mean(axis=(1, 2, 3))
    return {
        "closeness": closeness(cycles.images[n:], drawn[:n]),
        "averaged_mask_defect": means[:n],
        "averaged_mask_restored": means[n:],
        "averaged_change": jnp.abs(drawn - cycles.images).mean(axis=(1, 2, 3))[:n],
    }


def fold(model: DefectGAN, kept: None, config: DefectGANConfig) -> Any:
    return model.generator


DEFECT_GAN = Generator(
    name="defect_gan",
    schema=DefectGANConfig,
    monitor="closeness",
    monitor_unit="(0: drawn defects are spread as real ones, by pixels)",
    build=build,
    phases=phases,
    validate=validate,
    fold=fold,
    prepare=prepare,
    draw_noise=draw_noise,
    paint=paint,
    average_decay=lambda config: config.average_decay,
    average_parts=("generator",),
    checkpoint=lambda config: config.checkpoint,
    watch=sentences,
    sections=sections,
    networks=networks,
)
