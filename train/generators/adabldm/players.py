"""AdaBLDM's two phases: the denoiser adapted to the product, then the trimap encoder beside it, which stands still.

Sheet: "Losses" and "Training recipe". Shape letters: n images, h x w cells, z latent channels, s x s pixels, t tokens.
"""

from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.loss import noise_error
from train.generators.adabldm.networks import Trained, Words
from train.generators.adabldm.noise_schedule import STEPS, noise_schedule, noised
from train.players import Phase, Player

PerImage = Float[Array, " n"]
Latent = Float[Array, "n h w z"]


class Captioned(NamedTuple):
    """Images of the product and what they show: what the denoiser is adapted to."""

    latent: Latent
    words: Words


class Pasted(NamedTuple):
    """Copy-paste pairs: what the trimap encoder learns of."""

    latent: Latent
    words: Words
    trimap: Float[Array, "n s s"]
    empty: Words  # of the empty prompt


class Inputs(NamedTuple):
    """Of a step; each phase sees its own."""

    captioned: Captioned
    pasted: Pasted


class Noisy(NamedTuple):
    latent: Latent
    noise: Latent
    step: Int[Array, " n"]


def with_noise(latent: Latent, key: PRNGKeyArray, step: Int[Array, " n"] | None = None) -> Noisy:
    """z_t of a training step drawn for each image, or of those given."""
    for_step, for_noise = jax.random.split(key)
    if step is None:
        step = jax.random.randint(for_step, latent.shape[:1], 0, STEPS)
    noise = jax.random.normal(for_noise, latent.shape, latent.dtype)
    alpha_bar = jax.numpy.asarray(noise_schedule().alpha_bar)[step]
    return Noisy(noised(latent, noise, alpha_bar), noise, step)


def of_denoiser(
    model: Trained, images: Captioned, key: PRNGKeyArray, config: AdaBLDMConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    noisy = with_noise(images.latent, key)
    return noise_error(model.told(noisy.latent, noisy.step, images.words), noisy.noise), {}


def of_trimap_encoder(
    model: Trained, pairs: Pasted, key: PRNGKeyArray, config: AdaBLDMConfig
) -> tuple[PerImage, dict[str, PerImage]]:
    noisy = with_noise(pairs.latent, key)
    told = model.told_by_trimap(noisy.latent, noisy.step, pairs.words, pairs.trimap, pairs.empty)
    return noise_error(told, noisy.noise), {}


def phases(config: AdaBLDMConfig) -> tuple[Phase, ...]:
    """Those of no epochs left out."""
    of_domain, of_trimap = config.domain_epochs, config.epochs - config.domain_epochs
    trained = ("denoiser",) if config.text == "clip" else ("denoiser", "text")
    domain = Player("domain", trained, of_denoiser, _adamw_over(of_domain))
    trimap = Player("trimap", ("trimap_encoder",), of_trimap_encoder, _adamw_over(of_trimap))
    both = (
        Phase(of_domain, (domain,), sees=_captioned),
        Phase(of_trimap, (trimap,), sees=_pasted, start=_from_the_adapted if of_domain else None),
    )
    return tuple(phase for phase in both if phase.epochs)


def _captioned(inputs: Inputs) -> Captioned:
    return inputs.captioned


def _pasted(inputs: Inputs) -> Pasted:
    return inputs.pasted


def _from_the_adapted(model: Trained) -> None:
    """The trimap encoder is a copy of the denoiser as the first phase leaves it."""
    model.trimap_encoder.start_from(model.denoiser)


def _adamw_over(epochs: int) -> Any:
    """AdamW with the rates of a phase of so many epochs."""

    def optimizer(config: AdaBLDMConfig) -> optax.GradientTransformation:
        rate = _rate(config, epochs * config.steps_per_epoch)
        return optax.adamw(rate, config.adam_b1, config.adam_b2, weight_decay=config.weight_decay)

    return optimizer


def _rate(config: AdaBLDMConfig, total: int) -> optax.ScalarOrSchedule:
    """Warmed up, then constant or falling to zero along a cosine, over so many updates."""
    warmup = min(config.warmup_steps, max(total - 1, 0))
    if config.schedule == "cosine":
        return optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(total, 1))
    if warmup:
        return optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
    return config.learning_rate
