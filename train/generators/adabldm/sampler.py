"""Sampler: from noise to the latent of an image with a defect, held to the normal image outside of it.

Sheet: "Inference (exact)" and "Pitfalls" 1. DDIM with eta 0 and guidance (Ho and Salimans 2022, arXiv:2207.12598).
Latents are float32 throughout; the networks compute in the type of the prompts' contexts. Every number that an image is
random by comes from its own key, so that it does not depend on the others of its batch.

Shape letters: n images, y x x pixels, h x w latent cells, z latent channels, k tokens of a prompt, d channels of a
token, s steps of the sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from train.generators.adabldm.autoencoder import Autoencoder
from train.generators.adabldm.noise_schedule import ddim, ddim_step, noise_schedule, noised, predicted_latent
from train.generators.adabldm.stages import PRESETS, Edits, Stages

Images = Float[Array, "n y x 3"]
Latent = Float[Array, "n h w z"]
Context = Float[Array, "n k d"]
Pixels = Float[Array, "n y x"]
Cells = Float[Array, "n h w"]
Keys = Key[Array, " n"]

LEAST_DEFECT = 200 / 255  # of a trimap's pixel, to be one of the defect
REACH = 5  # side of the box that the mask of cells is dilated with
START, LATENT_EDIT, IMAGE_EDIT = 0, 1, 2  # what noise is drawn for, folded into an image's key


@runtime_checkable
class Networks(Protocol):
    """What a sampler needs of `AdaBLDM`; a tree of arrays."""

    @property
    def autoencoder(self) -> Autoencoder: ...

    @property
    def denoiser(self) -> Callable[..., Any]: ...

    @property
    def trimap_encoder(self) -> Callable[..., Any]: ...


class Asked(NamedTuple):
    """What the networks are told."""

    trimap: Pixels
    prompt: Context
    empty: Context  # of the empty prompt: all that the trimap encoder is ever told
    away: Context | None = None  # what guidance leads away from; None: the empty prompt


class Held(NamedTuple):
    """What a sample is held to outside the defect."""

    image: Images  # the normal one, in [-1, 1]
    latent: Latent  # and encoded
    pixels: Pixels  # 1 inside the defect, M of the sheet
    cells: Cells  # 1 inside and near it, m of the sheet


@dataclass(frozen=True)
class Sampling:
    """How it is sampled."""

    stages: Stages = PRESETS["seed_countdown"]
    guidance: float = 9.0
    # How noisy an image's latent is made again after its edit: as before the step (published), or as a step leaves it;
    # then the last one is left clean
    renoise: Literal["current", "prev"] = "current"


class Way(NamedTuple):
    """Of the sampler's steps: arrays [s] on the host, or on the device numbers of one step."""

    number: Any
    step: Any  # of training
    alpha_bar: Any  # before the step
    after: Any
    again: Any  # after an edit of the image


class Sampled(NamedTuple):
    latent: Latent
    stages: tuple[Latent, ...]  # at the end of each of `Stages.stretches`; the last one is the result


def way_of(sampling: Sampling) -> Way:
    """All steps, the noisiest first."""
    count = sampling.stages.steps
    steps = ddim(noise_schedule(), count)
    again = steps.alpha_bar if sampling.renoise == "current" else np.append(steps.alpha_bar_after[:-1], np.float32(1))
    return Way(np.arange(count, dtype=np.int32), steps.step, steps.alpha_bar, steps.alpha_bar_after, again)


def held_to(autoencoder: Autoencoder, image: Images, trimap: Pixels) -> Held:
    """Of normal images and the trimaps that say where each gets its defect."""
    pixels = (trimap >= LEAST_DEFECT).astype(jnp.float32)
    latent = autoencoder.encode(image).astype(jnp.float32)
    return Held(image, latent, pixels, cells_of(pixels, image.shape[1] // latent.shape[1]))


def cells_of(pixels: Pixels, factor: int) -> Cells:
    """The first pixel of each cell, dilated; a defect that misses all of these has the cells that it touches."""
    n, y, x = pixels.shape
    nearest = pixels[:, ::factor, ::factor]
    touched = pixels.reshape(n, y // factor, factor, x // factor, factor).max(axis=(2, 4))
    cells = jnp.where(nearest.any(axis=(1, 2), keepdims=True), nearest, touched)
    dilated: Array = jax.lax.reduce_window(cells, 0.0, jax.lax.max, (1, REACH, REACH), (1, 1, 1), "SAME")
    return dilated


def fresh_noise(keys: Keys, purpose: int, number: Int[Array, ""] | int, shape: tuple[int, ...]) -> Latent:
    """For each key noise of this shape, other than for any other purpose or number."""

    def one(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, purpose), number), shape)

    noise: Latent = jax.vmap(one)(keys)
    return noise


def guided_noise(model: Networks, latent: Latent, step: Int[Array, ""], asked: Asked, guidance: float) -> Latent:
    """What the denoiser takes for noise, led from the empty or a negative prompt towards the prompt and beyond it.

    The trimap leads both: its encoder is told the same in both, so it runs once.
    """
    n, dtype = latent.shape[0], asked.prompt.dtype
    x, steps = latent.astype(dtype), jnp.broadcast_to(step, (n,))
    control = model.trimap_encoder(x, asked.trimap.astype(dtype), steps, asked.empty)
    if guidance == 1:
        alone: Latent = model.denoiser(x, steps, asked.prompt, control).astype(jnp.float32)
        return alone
    both = jax.tree.map(lambda a: jnp.concatenate([a, a]), (x, steps, control))
    contexts = jnp.concatenate([asked.empty if asked.away is None else asked.away, asked.prompt])
    noise: Latent = model.denoiser(both[0], both[1], contexts, both[2]).astype(jnp.float32)
    return noise[:n] + guidance * (noise[n:] - noise[:n])


def take_step(
    model: Networks, latent: Latent, at: Way, asked: Asked, held: Held, keys: Keys, edits: Edits, guidance: float
) -> Latent:
    """One step of the sampler, with the edits of its stage."""
    shape = latent.shape[1:]
    if edits.latent:
        noise = fresh_noise(keys, LATENT_EDIT, at.number, shape)
        latent = _inside(held.cells, latent, noised(held.latent, noise, at.alpha_bar))
    noise = guided_noise(model, latent, at.step, asked, guidance)
    if not edits.image:
        return ddim_step(latent, noise, at.alpha_bar, at.after)
    drawn = model.autoencoder.decode(predicted_latent(latent, noise, at.alpha_bar))
    again = model.autoencoder.encode(_inside(held.pixels, drawn, held.image)).astype(jnp.float32)
    return noised(again, fresh_noise(keys, IMAGE_EDIT, at.number, shape), at.again)


def sample(
    model: Networks, asked: Asked, held: Held, keys: Keys, sampling: Sampling, *, in_turn: bool = False
) -> Sampled:
    """All steps. Traceable; by default a scan for each stage.

    `in_turn` calls a compiled step for each instead: for a CPU, where XLA runs convolutions in loops slowly.
    """
    way, latent, ends = way_of(sampling), fresh_noise(keys, START, 0, held.latent.shape[1:]), []
    for edits, start, stop in sampling.stages.stretches():
        some = Way(*(jnp.asarray(values[start:stop]) for values in way))
        step = partial(_compiled_step, edits=edits, guidance=sampling.guidance)
        if in_turn:
            for i in range(stop - start):
                latent = step(model, latent, Way(*(values[i] for values in some)), asked, held, keys)
        else:
            latent = _scanned(partial(step, model, asked=asked, held=held, keys=keys), latent, some)
        ends.append(latent)
    return Sampled(latent, tuple(ends))


_compiled_step = jax.jit(take_step, static_argnames=("edits", "guidance"))


def _scanned(step: Callable[[Latent, Way], Latent], latent: Latent, some: Way) -> Latent:
    last: Latent
    last, _ = jax.lax.scan(lambda latent, at: (step(latent, at), None), latent, some)
    return last


def _inside(mask: Float[Array, "n a b"], inner: Array, outer: Array) -> Array:
    """One where the mask is 1, the other where it is 0."""
    return mask[..., None] * inner + (1 - mask[..., None]) * outer
