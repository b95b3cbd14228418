"""AdaBLDM as one generator: networks, phases, painting. README.md maps the paper to the functions."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.frozen import KEPT, Frozen
from train.generators.adabldm.material import prepare
from train.generators.adabldm.memory import LOWERS_MEMORY, estimate
from train.generators.adabldm.model import exported
from train.generators.adabldm.networks import Trained
from train.generators.adabldm.players import phases
from train.generators.adabldm.sections import sections
from train.generators.adabldm.validation import validate
from train.generators.adabldm.watch import sentences
from train.generators.adabldm.weights import AdaBLDMWeights
from train.generators.generator import Generator


def build(config: AdaBLDMConfig, rngs: nnx.Rngs) -> Trained:
    return Trained(config, rngs=rngs)


def settled(config: AdaBLDMConfig, product: str) -> AdaBLDMConfig:
    return config if config.object else config.model_copy(update={"object": product})


def fold(model: Trained, kept: Frozen, config: AdaBLDMConfig) -> Any:
    text = model.text if kept.text is None else kept.text
    masks = {name: jnp.asarray(of_category) for name, of_category in kept.masks.items()}
    return AdaBLDMWeights(
        kept.autoencoder, text, model.denoiser, model.trimap_encoder, kept.backbone, kept.discriminant, masks
    )


def open_painter(run: Any, wishes: Any) -> Any:
    """Of a TrainedGenerator."""
    from train.generators.adabldm.painter import AdaBLDMPainter  # it opens runs, and so imports the registry

    return AdaBLDMPainter(run, wishes)


ADABLDM = Generator(
    name="adabldm",
    schema=AdaBLDMConfig,
    monitor="noise_told",
    monitor_unit="(-2: nothing learned, 0: all noise told; minus the errors in held-out images and in pairs)",
    build=build,
    phases=phases,
    validate=validate,
    fold=fold,
    prepare=prepare,
    kept=KEPT,
    settled=settled,
    memory=estimate,
    lowers_memory=LOWERS_MEMORY,
    micro_batches=lambda config: config.micro_batches,
    average_decay=lambda config: config.average_decay,
    checkpoint=lambda config: config.checkpoint,
    watch=sentences,
    sections=sections,
    painter=open_painter,
    networks=lambda run: exported(run.weights, run.config.networks),
)
