"""Noise schedule: how much noise a latent holds at each of 1000 steps, and DDIM's way back (Song et al. 2020,
arXiv:2010.02502).

Sheet: "Training recipe" and "Inference". alpha_bar is the share of the variance that is signal: z_t = sqrt(alpha_bar_t)
z + sqrt(1 - alpha_bar_t) noise. Shape letters: n images, h x w cells, z channels, s steps of a sampler.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

STEPS = 1000
FIRST_BETA, LAST_BETA = 0.00085, 0.0120  # linear between their square roots

Latent = Float[Array, "n h w z"]
Share = Float[Array, "*n"] | Float[np.ndarray, "*n"] | np.floating | float  # alpha_bar of all images, or of each


class Schedule(NamedTuple):
    """Of the training steps: arrays [1000]."""

    beta: Float[np.ndarray, " steps"]
    alpha_bar: Float[np.ndarray, " steps"]


class DDIM(NamedTuple):
    """Of a sampler's s steps, the noisiest first: arrays [s]."""

    step: Int[np.ndarray, " s"]  # training steps that the denoiser is told, 1 + a multiple of 1000 // s
    alpha_bar: Float[np.ndarray, " s"]  # of the latent that goes in
    alpha_bar_after: Float[np.ndarray, " s"]  # of the one that comes out; at last training step 0, not 1


def noise_schedule(steps: int = STEPS, first_beta: float = FIRST_BETA, last_beta: float = LAST_BETA) -> Schedule:
    """Computed in float64, rounded to float32 once."""
    beta = np.linspace(first_beta**0.5, last_beta**0.5, steps, dtype=np.float64) ** 2
    return Schedule(beta.astype(np.float32), np.cumprod(1 - beta).astype(np.float32))


def ddim(schedule: Schedule, count: int) -> DDIM:
    """`count` evenly spaced steps, as Stable Diffusion's sampler counts them; take a divisor of 1000, else the first
    step lies lower than it could.

    Raises:
        ValueError: fewer than one, or more than there are training steps less one.
    """
    steps = len(schedule.beta)
    if not 1 <= count < steps:
        raise ValueError(f"A sampler takes 1 to {steps - 1} of the {steps} training steps; found {count}.")
    step = (np.arange(count) * (steps // count) + 1)[::-1].astype(np.int32)
    before = np.append(step[1:], 0)
    return DDIM(step, schedule.alpha_bar[step], schedule.alpha_bar[before])


def noised(latent: Latent, noise: Latent, alpha_bar: Share) -> Latent:
    """q(z, t): the latent with the noise of a step."""
    share = _per_image(alpha_bar)
    return jnp.sqrt(share) * latent + jnp.sqrt(1 - share) * noise


def predicted_latent(latent: Latent, noise: Latent, alpha_bar: Share) -> Latent:
    """The clean latent that a noisy one would have come from, were `noise` what it holds."""
    share = _per_image(alpha_bar)
    return (latent - jnp.sqrt(1 - share) * noise) / jnp.sqrt(share)


def ddim_step(latent: Latent, noise: Latent, alpha_bar: Share, alpha_bar_after: Share) -> Latent:
    """One step of DDIM with eta 0: the predicted latent with the same noise, less of it."""
    return noised(predicted_latent(latent, noise, alpha_bar), noise, alpha_bar_after)


def _per_image(share: Share) -> Float[Array, "..."]:
    array = jnp.asarray(share, jnp.float32)
    return array if array.ndim == 0 else array[:, None, None, None]
