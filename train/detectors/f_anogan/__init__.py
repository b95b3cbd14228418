"""f-AnoGAN as one detector: networks, players in two phases, scores. README.md maps the paper to the functions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from train.blocks.pixels import to_signed
from train.config import THRESHOLD_SETTINGS
from train.detectors.anogan import drawn_by, refuse_constant
from train.detectors.anogan.score import of_tiles
from train.detectors.anogan.sections import generator_section, training_section
from train.detectors.anogan.watch import closeness, sentences, spread
from train.detectors.detector import Detector, Images
from train.detectors.f_anogan.config import FAnoGANConfig
from train.detectors.f_anogan.loss import critic_loss, encoder_loss, generator_loss, gradient_penalty
from train.detectors.f_anogan.model import SIZE, FAnoGAN
from train.detectors.scores import RawScores
from train.optimizer import learning_rate
from train.pictures import as_address, grid, to_bytes
from train.players import Phase, Player
from train.section import Section

PerImage = Float[Array, " n"]
Figures = dict[str, PerImage]
ENCODED, MOST_SHOWN = 8, 36  # held-out images in the report


def build(config: FAnoGANConfig, rngs: nnx.Rngs) -> FAnoGAN:
    return FAnoGAN(config.latent, config.filters, config.channels, rngs=rngs)


def of_critic(model: FAnoGAN, images: Images, key: PRNGKeyArray, config: FAnoGANConfig) -> tuple[PerImage, Figures]:
    for_z, for_point, for_flip = jax.random.split(key, 3)
    x = _augmented(images, for_flip, config)
    drawn = model.draw(for_z, x.shape[0])
    penalty = gradient_penalty(lambda between: model.critic(between).value, x, drawn, for_point)
    good_value, drawn_value = model.critic(x).value, model.critic(drawn).value
    return critic_loss(good_value, drawn_value, penalty, config.penalty), {"distance": good_value - drawn_value}


def of_generator(model: FAnoGAN, images: Images, key: PRNGKeyArray, config: FAnoGANConfig) -> tuple[PerImage, Figures]:
    return generator_loss(model.critic(model.draw(key, images.shape[0])).value), {}


def of_encoder(model: FAnoGAN, images: Images, key: PRNGKeyArray, config: FAnoGANConfig) -> tuple[PerImage, Figures]:
    model.generator.eval()  # type: ignore[no-untyped-call]  # it stands still, its batch statistics too
    x = _augmented(images, key, config)
    again = model.again(x)
    return encoder_loss(x, model.critic(x), again, model.critic(again), config.w_feature), {}


def _augmented(images: Array, key: PRNGKeyArray, config: FAnoGANConfig) -> Array:
    x = to_signed(images, config.channels)
    if not config.flip:
        return x
    return jnp.where(jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1)), x[:, :, ::-1], x)


def adam(config: FAnoGANConfig) -> optax.GradientTransformation:
    return optax.adam(learning_rate(config), b1=0.0, b2=0.9)


def rmsprop(config: FAnoGANConfig) -> optax.GradientTransformation:
    return optax.rmsprop(config.encoder_rate)


def phases(config: FAnoGANConfig) -> tuple[Phase, ...]:
    """Critic and generator; then the encoder, on as many batches a step as the critic had."""
    critic = Player("critic", ("critic",), of_critic, adam, config.critic_steps)
    generator = Player("generator", ("generator",), of_generator, adam)
    encoder = Player("encoder", ("encoder",), of_encoder, rmsprop, config.critic_steps)
    return Phase(config.epochs - config.encoder_epochs, (critic, generator)), Phase(config.encoder_epochs, (encoder,))


def validate(model: FAnoGAN, images: Images, key: PRNGKeyArray, config: FAnoGANConfig) -> Figures:
    """How near and varied drawn images are, how well held-out ones are drawn again, and random z found again."""
    x, z = to_signed(images, config.channels), jax.random.normal(key, (images.shape[0], config.latent))
    drawn = model.generator(z)
    squared = jnp.square(x - model.again(x)).mean(axis=(1, 2, 3))
    psnr = 10 * jnp.log10(4 / jnp.maximum(squared, 1e-12))  # the range from -1 to 1 is 2
    return {
        "psnr": psnr,
        "closeness": closeness(x, drawn),
        "spread": spread(x, drawn),
        "z_error": jnp.square(z - model.encoder(drawn)).mean(axis=1),
    }


def score(weights: FAnoGAN, images: Images, config: FAnoGANConfig) -> RawScores:
    """A(x) and |x - G(E(x))|, of tiles where the image is larger than the network's."""
    x = to_signed(config.tiling.cut(images.astype(jnp.float32)), config.channels)
    again = weights.again(x)
    scores = encoder_loss(x, weights.critic(x), again, weights.critic(again), config.w_feature)
    return of_tiles(scores, jnp.abs(x - again).mean(axis=-1), config.tiling, config.tile_quantile)


def score_definition(config: FAnoGANConfig) -> str:
    tile = "" if config.tiling.is_whole else f" of each of {len(config.tiling)} tiles of {SIZE} px"
    which = "the highest tile" if config.tile_quantile == 1 else f"the {config.tile_quantile:g} quantile of the tiles"
    image = "" if config.tiling.is_whole else f"; raw score of the image = {which}"
    return (
        f"f-AnoGAN: mean squared difference of image and G(E(image)){tile}, on pixels of -1 to 1, + "
        f"{config.w_feature:g} x that of the critic's features{image}; raw map = |image - G(E(image))|, averaged over "
        "channels."
    )


def picture(model: FAnoGAN, config: FAnoGANConfig) -> UInt8[np.ndarray, "h w 3"]:
    """What the generator draws of the same z after every epoch."""
    return grid(to_bytes(drawn_by(model, jax.random.key(config.seed))))


def sections(run: Any) -> Sequence[Section]:
    """Of a TrainedRun: drawn parts, losses, held-out parts drawn again."""
    from train.run import read_held_out

    config: FAnoGANConfig = run.config
    tiles = np.asarray(config.tiling.cut(jnp.asarray(read_held_out(run)[0])))
    tiles = tiles[np.linspace(0, len(tiles) - 1, min(len(tiles), MOST_SHOWN)).astype(int)]
    drawn = drawn_by(run.weights, jax.random.key(config.seed))
    x = to_signed(jnp.asarray(tiles[:: max(len(tiles) // ENCODED, 1)][:ENCODED]), config.channels)
    again = nnx.jit(lambda model: model.again(x))(run.weights)
    rows = [to_bytes(x), to_bytes(again), to_bytes(jnp.abs(x - again).mean(axis=-1, keepdims=True) - 1)]
    found = Section(
        "Drawn again through the encoder",
        ("Held-out good images, what generator and encoder make of them, and the difference, which is the raw map.",),
        pictures=((as_address(grid(np.concatenate(rows), columns=len(x))), "image, G(E(image)), difference"),),
    )
    losses = training_section(run.figures, ("critic_loss", "generator_loss", "encoder_loss"))
    return generator_section(to_bytes(drawn), tiles), losses, found


F_ANOGAN = Detector(
    name="f_anogan",
    schema=FAnoGANConfig,
    monitor="psnr",
    monitor_unit="dB",
    build=build,
    phases=phases,
    validate=validate,
    fold=lambda model, _frozen, config: model,
    score=score,
    score_definition=score_definition,
    scoring_mode=lambda config: "izi_f",
    scoring_settings=THRESHOLD_SETTINGS | {"tile_quantile", "checkpoint"},
    tiling=lambda config: config.tiling,
    measure=refuse_constant,
    checkpoint=lambda config: config.checkpoint,
    watch=lambda figures, config: sentences(figures),
    picture=picture,
    sections=sections,
)
