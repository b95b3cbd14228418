"""Defect-GAN's two players: what each of their updates sees, and what it moves.

An update has n pairs of a normal and a defective image. Both cycles are run at once, as 2 n images: the normal ones get
a defect of their partner's categories and are restored (n -> d -> n^), the defective ones are restored and get their
defect back (d -> n -> d^).

Shape letters: n pairs, s x s pixels, c channels, k control channels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, UInt8

from train.blocks.pixels import to_signed
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.loss import (
    adversarial_of_critic,
    adversarial_of_generator,
    classification,
    critic_loss,
    generator_loss,
    gradient_penalty,
    mask_cycle,
    mask_size,
    reconstruction,
    risen,
)
from train.generators.defect_gan.model import DefectGAN
from train.players import Phase, Player

DARK = 0.03  # some four grey levels: a black image has no light to be compared with
PerImage = Float[Array, " m"]
Figures = dict[str, PerImage]


class Pairs(NamedTuple):
    """Inputs of an update, as they lie in memory."""

    normal: UInt8[Array, "n s s 3"]
    defective: UInt8[Array, "n s s 3"]
    labels: UInt8[Array, "n k"]  # of the defective images: 1 for each category shown; the last one is 0
    mask: UInt8[Array, "n s s"]  # 255 where the defect is; everywhere where that is not known


class Cycles(NamedTuple):
    """Both cycles' starts: first n normal images, then n defective ones."""

    images: Float[Array, "m s s c"]
    labels: Float[Array, "m k"]  # of what they show
    asked: Float[Array, "m k"]  # of what is asked for
    there: Float[Array, "m s s k"]  # control maps of the first half of the cycle
    back: Float[Array, "m s s k"]  # and of the second


def cycles_of(pairs: Pairs, key: PRNGKeyArray, config: DefectGANConfig, *, augment: bool = True) -> Cycles:
    """Flipped at random; a known mask is the control map with probability `mask_probability`, else the whole image."""
    n, size = pairs.normal.shape[:2]
    coin, of_normal, of_defective = jax.random.split(key, 3)
    normal, defective = (to_signed(images, config.channels) for images in (pairs.normal, pairs.defective))
    if config.match_light:
        defective = under_light_of(normal, defective)
    region = (pairs.mask > 127).astype(jnp.float32)[..., None]
    if augment:
        normal = flipped(normal, of_normal, config.flips)
        both = flipped(jnp.concatenate([defective, region], axis=-1), of_defective, config.flips)
        defective, region = both[..., :-1], both[..., -1:]
        masked = jax.random.bernoulli(coin, config.mask_probability, (n, 1, 1, 1))
        region = jnp.where(masked, region, 1.0)
    else:
        region = jnp.ones_like(region)
    labels = pairs.labels.astype(jnp.float32)
    plain = jnp.zeros_like(labels).at[:, -1].set(1)
    defect = region * labels[:, None, None]
    restore = jnp.broadcast_to(plain[:, None, None], (n, size, size, labels.shape[1]))
    return Cycles(
        jnp.concatenate([normal, defective]),
        jnp.concatenate([plain, labels]),
        jnp.concatenate([labels, plain]),
        jnp.concatenate([defect, restore]),
        jnp.concatenate([restore, defect]),
    )


def under_light_of(normal: Float[Array, "n h w c"], defective: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """The defective images with the mean colour of the normal ones, by a gain for each image and channel."""
    wanted, found = (x.mean(axis=(1, 2), keepdims=True) + 1 for x in (normal, defective))
    return jnp.clip((defective + 1) * (wanted / jnp.maximum(found, DARK)) - 1, -1, 1)


def flipped(x: Float[Array, "n h w c"], key: PRNGKeyArray, flips: str) -> Float[Array, "n h w c"]:
    """Each image by coins of its own."""
    across, down = jax.random.bernoulli(key, 0.5, (2, x.shape[0], 1, 1, 1))
    if flips != "none":
        x = jnp.where(across, x[:, :, ::-1], x)
    return jnp.where(down, x[:, ::-1], x) if flips == "both" else x


def draw_noise(keys: Key[Array, " n"], config: DefectGANConfig) -> Float[Array, "n z"]:
    """A row for each key."""
    return jax.vmap(lambda key: jax.random.normal(key, (config.noise_numbers,)))(keys)


def of_critic(model: DefectGAN, pairs: Pairs, key: PRNGKeyArray, config: DefectGANConfig) -> tuple[PerImage, Figures]:
    """Defaced images against defective ones, restored against normal ones (sheet: Pitfalls 3)."""
    for_cycles, for_noise, for_mix = jax.random.split(key, 3)
    cycles = cycles_of(pairs, for_cycles, config)
    n, m = len(pairs.normal), len(cycles.images)
    noise = draw_noise(jax.random.split(for_noise, m), config)
    drawn = jax.lax.stop_gradient(model.generator(cycles.images, cycles.there, noise).over(cycles.images))
    partners = jnp.concatenate([cycles.images[n:], cycles.images[:n]])  # real ones of the kind that was asked for
    judged = model.critic(jnp.concatenate([partners, drawn]))
    adversarial = adversarial_of_critic(judged.value[:m], judged.value[m:], config.adversarial)
    class_real = classification(judged.logits[:m], cycles.asked, exclusive=bool(config.exclusive))
    if config.adversarial == "wgan_gp":
        share = jax.random.uniform(for_mix, (m, 1, 1, 1))
        mixed = share * partners + (1 - share) * drawn
        penalty = gradient_penalty(jax.grad(lambda x: model.critic(x).value.sum())(mixed))
    else:
        penalty = jnp.zeros(m)
    figures = {"critic_distance": judged.value[:m] - judged.value[m:], "class_real": class_real, "penalty": penalty}
    return critic_loss(adversarial, penalty, class_real, config), figures


def of_generator(
    model: DefectGAN, pairs: Pairs, key: PRNGKeyArray, config: DefectGANConfig
) -> tuple[PerImage, Figures]:
    for_cycles, for_there, for_back = jax.random.split(key, 3)
    cycles = cycles_of(pairs, for_cycles, config)
    n, m = len(pairs.normal), len(cycles.images)
    layer = model.generator(cycles.images, cycles.there, draw_noise(jax.random.split(for_there, m), config))
    drawn = layer.over(cycles.images)
    layer_back = model.generator(drawn, cycles.back, draw_noise(jax.random.split(for_back, m), config))
    judged = model.critic(drawn)
    adversarial = adversarial_of_generator(judged.value, config.adversarial)
    class_drawn = classification(judged.logits, cycles.asked, exclusive=bool(config.exclusive))
    rec = reconstruction(cycles.images, layer_back.over(drawn))
    cycle, size = mask_cycle(layer.mask, layer_back.mask), mask_size(layer.mask, layer_back.mask)
    total = config.epochs * config.steps_per_epoch
    weight = risen(config.w_mask_size, model.updates[...], total, config.mask_size_warmup)
    model.updates[...] = model.updates[...] + 1
    means = layer.mask.mean(axis=(1, 2, 3))
    figures = {
        "class_drawn": class_drawn,
        "reconstruction": rec,
        "mask_cycle": cycle,
        "mask_defect": means[:n],
        "mask_restored": means[n:],
    }
    return generator_loss(adversarial, class_drawn, rec, cycle, size, weight, config), figures


def phases(config: DefectGANConfig) -> tuple[Phase, ...]:
    """The critic's updates, then the generator's."""

    def adam_over(updates: int) -> Any:
        return lambda config: optax.adam(rate(config, updates), b1=config.adam_b1, b2=config.adam_b2)

    players = (
        Player("critic", ("critic",), of_critic, adam_over(config.critic_steps), config.critic_steps),
        Player("generator", ("generator",), of_generator, adam_over(1)),
    )
    return (Phase(config.epochs, players),)


def rate(config: DefectGANConfig, updates: int) -> optax.ScalarOrSchedule:
    """The learning rate of a player with so many updates in a step."""
    if config.schedule == "constant":
        return config.learning_rate
    total = config.epochs * config.steps_per_epoch * updates
    return optax.linear_schedule(config.learning_rate, config.final_learning_rate, total)
