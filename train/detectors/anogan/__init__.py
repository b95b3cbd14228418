"""AnoGAN as one detector: networks, players, search and scores. README.md maps the paper to the functions."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from train.blocks.pixels import to_signed
from train.config import THRESHOLD_SETTINGS
from train.data.samples import DataError
from train.detectors.anogan.config import AnoGANConfig
from train.detectors.anogan.frozen import fold
from train.detectors.anogan.loss import discriminator_loss, generator_loss
from train.detectors.anogan.model import AnoGAN
from train.detectors.anogan.networks import networks
from train.detectors.anogan.score import Weights, at_once, raw_scores, training_form
from train.detectors.anogan.sections import sections
from train.detectors.anogan.watch import closeness, sentences, spread
from train.detectors.detector import Detector, Images
from train.optimizer import learning_rate
from train.pictures import grid, to_bytes
from train.players import Phase, Player

PerImage = Float[Array, " n"]
START_STREAM = 5  # folded into the run's seed, for the z that every search starts from
SHOWN = 36  # drawn images in a picture of the generator
LEAST_CONTRAST = 1.0  # grey levels


def build(config: AnoGANConfig, rngs: nnx.Rngs) -> AnoGAN:
    form, layout = training_form(config), config.layout
    return AnoGAN(layout, config.latent, config.filters, config.channels, form=form, biases=config.biases, rngs=rngs)


def of_discriminator(
    model: AnoGAN, images: Images, key: PRNGKeyArray, config: AnoGANConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    x = to_signed(images, config.channels)
    good = model.discriminator(x).logit
    drawn = model.discriminator(model.draw(key, x.shape[0])).logit
    figures = {"good_probability": jax.nn.sigmoid(good), "drawn_probability": jax.nn.sigmoid(drawn)}
    return discriminator_loss(good, drawn), figures


def of_generator(
    model: AnoGAN, images: Images, key: PRNGKeyArray, config: AnoGANConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    return generator_loss(model.discriminator(model.draw(key, images.shape[0])).logit), {}


def adam(config: AnoGANConfig) -> optax.GradientTransformation:
    return optax.adam(learning_rate(config), b1=config.adam_b1)


def phases(config: AnoGANConfig) -> tuple[Phase, ...]:
    """The discriminator's update, then the generator's against the new discriminator."""
    players = (
        Player("discriminator", ("discriminator",), of_discriminator, adam),
        Player("generator", ("generator",), of_generator, adam),
    )
    return (Phase(config.epochs, players),)


def validate(model: AnoGAN, images: Images, key: PRNGKeyArray, config: AnoGANConfig) -> dict[str, PerImage]:
    """How near and how varied drawn images are, against held-out good ones."""
    x = to_signed(images, config.channels)
    drawn = model.draw(key, x.shape[0])
    return {"closeness": closeness(x, drawn), "spread": spread(x, drawn)}


def refuse_constant(model: Any, batches: Callable[[], Iterable[UInt8[np.ndarray, "n h w 3"]]]) -> None:
    """DataError where no training image shows anything: a generator would learn one grey."""
    if max(float(np.ptp(np.asarray(images), axis=(1, 2)).max()) for images in batches()) < LEAST_CONTRAST:
        raise DataError(
            "Every training image is of one colour: there is nothing to learn to draw. Look at the camera's lens and "
            "exposure, and at crop."
        )


def picture(model: AnoGAN, config: AnoGANConfig) -> UInt8[np.ndarray, "h w 3"]:
    """What the generator draws of the same z after every epoch."""
    return grid(to_bytes(drawn_by(model, jax.random.key(config.seed))))


@nnx.jit
def drawn_by(model: Any, key: PRNGKeyArray) -> Float[Array, "_n h w c"]:
    """SHOWN images, by one program for all epochs."""
    drawn: Array = model.draw(key, SHOWN)
    return drawn


def fold_weights(model: AnoGAN, _frozen: None, config: AnoGANConfig) -> Weights:
    key = jax.random.fold_in(jax.random.key(config.seed), START_STREAM)
    return Weights(fold(model), jax.random.normal(key, (config.restarts, config.latent)))


def score_definition(config: AnoGANConfig) -> str:
    norm = "mean |difference|" if config.distance == "l1" else "mean squared difference"
    tile = "" if config.tiling.is_whole else f" of each of {len(config.tiling)} tiles of {config.input_size} px"
    which = "the highest tile" if config.tile_quantile == 1 else f"the {config.tile_quantile:g} quantile of the tiles"
    image = "" if config.tiling.is_whole else f"; raw score of the image = {which}"
    return (
        f"AnoGAN: z after {config.inversion_steps} steps of Adam{tile}; raw score = {config.w_residual:g} x {norm} of "
        f"image and G(z) + {config.w_feature:g} x {norm} of their features, on pixels of -1 to 1{image}; raw map = "
        "|image - G(z)|, averaged over channels."
    )


ANOGAN = Detector(
    name="anogan",
    schema=AnoGANConfig,
    monitor="closeness",
    monitor_unit="(0: drawn images are spread as good ones)",
    build=build,
    phases=phases,
    validate=validate,
    fold=fold_weights,
    score=raw_scores,
    score_definition=score_definition,
    scoring_mode=lambda config: f"{config.inversion_steps}_steps_{config.distance}",
    scoring_settings=THRESHOLD_SETTINGS
    | {
        "inversion_steps",
        "inversion_rate",
        "inversion_final_rate",
        "distance",
        "w_residual",
        "w_feature",
        "restarts",
        "patience",
        "tile_quantile",
        "checkpoint",
    },
    tiling=lambda config: config.tiling,
    measure=refuse_constant,
    checkpoint=lambda config: config.checkpoint,
    watch=lambda figures, config: sentences(figures),
    picture=picture,
    sections=sections,
    networks=networks,
    inputs_at_once=at_once,
    server_only=(
        "AnoGAN searches for every part anew, by hundreds of steps of gradient descent: it runs on the server only "
        "(python -m train evaluate). For a device train f_anogan, whose encoder takes the place of the search."
    ),
)
