"""AESc with Stain noise: model, loss and scores as one detector. README.md maps the paper to the functions."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from train.blocks.pixels import to_unit
from train.config import THRESHOLD_SETTINGS, ConfigError
from train.data.defect_bank import DefectBank, open_bank, paste_defects
from train.data.noise import corrupt
from train.detectors.aesc.config import AEScConfig
from train.detectors.aesc.loss import mean_squared_error, psnr
from train.detectors.aesc.model import CPU_TRAINING, PLAIN, AESc
from train.detectors.aesc.score import (
    Dropout,
    FoldedAESc,
    draw_dropout,
    fold,
    residual_scores,
    uncertainty_scores,
)
from train.detectors.detector import Detector, Images
from train.detectors.scores import RawScores
from train.optimizer import adam
from train.players import one_network

PerImage = Float[Array, " n"]
DROPOUT_STREAM = 1  # folded into the run's seed, apart from what training draws
PASTE_STREAM = 1  # folded into a step's key


def build(config: AEScConfig, rngs: nnx.Rngs) -> AESc:
    fast = config.form == "fast" or (config.form == "auto" and jax.default_backend() == "cpu")
    forms = CPU_TRAINING if fast else PLAIN
    return AESc(
        config.channels,
        config.filters,
        skips=config.network == "aesc",
        forms=forms,
        norm_momentum=config.norm_momentum,
        rngs=rngs,
    )


def loss(model: AESc, images: Images, key: PRNGKeyArray, config: AEScConfig) -> tuple[PerImage, dict[str, PerImage]]:
    """MSE between the clean image and what the network makes of its corrupted copy, drawn afresh every time."""
    clean = to_unit(images, config.channels)
    reconstruction = model(corrupted(key, clean, config))
    return mean_squared_error(reconstruction, clean), {}


def validate(model: AESc, images: Images, key: PRNGKeyArray, config: AEScConfig) -> dict[str, PerImage]:
    """PSNR of corrupted held-out images against the clean ones."""
    clean = to_unit(images, config.channels)
    return {"psnr": psnr(model(corrupted(key, clean, config)), clean)}


def corrupted(key: PRNGKeyArray, clean: Float[Array, "n h w c"], config: AEScConfig) -> Float[Array, "n h w c"]:
    """Noise on each image, or on a share of them generated defects."""
    noisy = corrupt(key, clean, config.noise, config.stain)
    if not config.defects_share:
        return noisy
    paste_key, choice_key = jax.random.split(jax.random.fold_in(key, PASTE_STREAM))
    bank = _bank(config)
    images = to_unit(jnp.asarray(bank.images), config.channels)
    pasted = paste_defects(paste_key, clean, images, jnp.asarray(bank.masks, jnp.float32) / 255)
    chosen = jax.random.bernoulli(choice_key, config.defects_share, (len(clean), 1, 1, 1))
    return jnp.where(chosen, pasted, noisy)


@lru_cache(maxsize=2)  # traced for the training step and for the validation
def _bank(config: AEScConfig) -> DefectBank:
    if config.defects is None:
        raise ConfigError(
            "This run is trained with generated defects, and their folder was not named. Go on with "
            "--set defects=FOLDER."
        )
    return open_bank(config.defects, config.image_size)


def fold_weights(model: AESc, _frozen: None, config: AEScConfig) -> tuple[FoldedAESc, Dropout | None]:
    """Kernels with batch normalisation inside; for the uncertainty mode masks too, drawn once from the run's seed."""
    if config.scoring_mode == "residual":
        return fold(model), None
    key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT_STREAM)
    masks = draw_dropout(key, config.level_rates, config.dropout_passes, config.filters, config.image_size)
    return fold(model), masks


def score(weights: tuple[FoldedAESc, Dropout | None], images: Images, config: AEScConfig) -> RawScores:
    folded, dropout = weights
    x = to_unit(images, config.channels)
    skips = config.network == "aesc"
    if dropout is None:
        return residual_scores(folded, x, skips=skips, quantise=config.quantise)
    return uncertainty_scores(folded, x, dropout, skips=skips, quantise=config.quantise)


def score_definition(config: AEScConfig) -> str:
    if config.scoring_mode == "residual":
        pixel = "|image - reconstruction| in grey levels (0-255), averaged over channels"
    else:
        pixel = (
            f"variance of the reconstruction in squared grey levels over {config.dropout_passes} dropout passes with "
            f"rates {', '.join(f'{rate:g}' for rate in config.level_rates)}, averaged over channels"
        )
    return f"AESc {config.scoring_mode}: raw map = {pixel}; raw score = root of the map's mean square."


def scoring_mode(config: Any) -> str:
    return str(config.scoring_mode)


AESC = Detector(
    name="aesc",
    schema=AEScConfig,
    monitor="psnr",
    monitor_unit="dB",
    build=build,
    phases=lambda config: one_network(loss, adam, config.epochs),
    validate=validate,
    fold=fold_weights,
    score=score,
    score_definition=score_definition,
    scoring_mode=scoring_mode,
    scoring_settings=THRESHOLD_SETTINGS | {"scoring", "defect_contrast", "dropout_rates", "dropout_passes", "quantise"},
)
