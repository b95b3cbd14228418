"""Online adaptation: a copy of the decoder learns, for one image alone, to give the normal image outside the defect.

Sheet: "Losses" and "Pitfalls" 2 and 3. A pure function: what it learned is used once and dropped. Every image has a
decoder of its own. Shape letters: n images, y x x pixels, h x w latent cells, z latent channels, i iterations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

Image = Float[Array, "y x 3"]
Images = Float[Array, "n y x 3"]
Mask = Float[Array, "y x"]
Masks = Float[Array, "n y x"]
LatentOfOne = Float[Array, "h w z"]
Latent = Float[Array, "n h w z"]
Params = Any  # a tree of arrays: the decoder's
Decode = Callable[[Params, Latent], Images]

WIDTH_OF_RANGE = 2.0  # images lie in [-1, 1]
EXACT = 1e-12  # of a mean squared error; nearer is called so


@dataclass(frozen=True)
class Adaptation:
    """How long and how fast."""

    iterations: int = 200
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    w_background: float = 100.0  # lambda_con

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


class Terms(NamedTuple):
    """The two parts of the loss, unweighted."""

    defect: Float[Array, "*i"]
    background: Float[Array, "*i"]


class Fidelity(NamedTuple):
    """How near an image is to the normal one outside the defect; grey levels from 0 to 1."""

    psnr: Float[Array, "*n"]  # decibels
    mean_absolute_error: Float[Array, "*n"]


class Adapted(NamedTuple):
    image: Float[Array, "*n y x 3"]  # decoded by what was adapted, in [-1, 1] or a little beyond
    before: Float[Array, "*n y x 3"]  # by what it started from
    terms: Terms  # before each iteration
    fidelity_before: Fidelity
    fidelity: Fidelity


class Progress(NamedTuple):
    """What changes from iteration to iteration."""

    params: Params
    opt_state: Any


def decoder_of(autoencoder: Any) -> tuple[Decode, Params]:
    """An autoencoder's `decode` as a function of its decoder's arrays, and these."""
    graph, params, rest = nnx.split(autoencoder, nnx.PathContains("decoder"), ...)  # type: ignore[misc]

    def decode(params: Params, latent: Latent) -> Images:
        images: Images = nnx.merge(graph, params, rest).decode(latent)
        return images

    return decode, params


def terms_of(decoded: Image, x_fg: Image, normal: Image, mask: Mask) -> Terms:
    """Mean squares over all pixels, not over the mask's alone, as published."""
    inside = mask[..., None]
    return Terms(
        jnp.mean(jnp.square(inside * (x_fg - decoded))), jnp.mean(jnp.square((1 - inside) * (normal - decoded)))
    )


def iterate(
    decode: Decode,
    progress: Progress,
    x_fg: Image,
    normal: Image,
    mask: Mask,
    latent: LatentOfOne,
    settings: Adaptation,
) -> tuple[Progress, Terms]:
    """One update for one image; the terms are those before it."""

    def loss(params: Params) -> tuple[Array, Terms]:
        terms = terms_of(decode(params, latent[None])[0], x_fg, normal, mask)
        return terms.defect + settings.w_background * terms.background, terms

    grads, terms = jax.grad(loss, has_aux=True)(progress.params)
    updates, opt_state = settings.optimizer.update(grads, progress.opt_state, progress.params)
    return Progress(optax.apply_updates(progress.params, updates), opt_state), terms


def adapt(
    decode: Decode, params: Params, normal: Image, mask: Mask, latent: LatentOfOne, settings: Adaptation
) -> tuple[Params, Terms]:
    """The decoder adapted to one image, and the terms of every iteration; traceable."""
    x_fg = decode(params, latent[None])[0]

    def update(progress: Progress, _: None) -> tuple[Progress, Terms]:
        return iterate(decode, progress, x_fg, normal, mask, latent, settings)

    start = Progress(params, settings.optimizer.init(params))
    progress, terms = jax.lax.scan(update, start, None, length=settings.iterations)
    return progress.params, terms


def adapted(
    decode: Decode, params: Params, normal: Images, mask: Masks, latent: Latent, settings: Adaptation
) -> Adapted:
    """Every image decoded by a decoder of its own; traceable, all of them at once."""

    def one(normal: Image, mask: Mask, latent: LatentOfOne) -> Adapted:
        params_of_one, terms = adapt(decode, params, normal, mask, latent, settings)
        return _compared(decode(params_of_one, latent[None])[0], decode(params, latent[None])[0], terms, normal, mask)

    result: Adapted = jax.vmap(one)(normal, mask, latent)
    return result


def adapter_of(decode: Decode, settings: Adaptation) -> Callable[[Params, Images, Masks, Latent], Adapted]:
    """As fits the machine: all images in one compiled program, or on a CPU one after the other."""
    if jax.default_backend() == "cpu":
        return InTurn(decode, settings)
    return jax.jit(partial(_all_at_once, decode, settings))


def _all_at_once(
    decode: Decode, settings: Adaptation, params: Params, normal: Images, mask: Masks, latent: Latent
) -> Adapted:
    return adapted(decode, params, normal, mask, latent, settings)


class InTurn:
    """The same for a CPU: image after image, a compiled iteration after the other (README: "Speed").

    Keep it: what it compiles serves all images of one size.
    """

    def __init__(self, decode: Decode, settings: Adaptation):
        self.settings = settings
        self._decode = jax.jit(decode)
        self._start = jax.jit(settings.optimizer.init)
        self._iterate = jax.jit(partial(iterate, decode, settings=settings), donate_argnames="progress")
        self._compared = jax.jit(_compared)

    def __call__(self, params: Params, normal: Images, mask: Masks, latent: Latent) -> Adapted:
        found = [self._one(params, *of_one) for of_one in zip(normal, mask, latent, strict=True)]
        result: Adapted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
        return result

    def _one(self, params: Params, normal: Image, mask: Mask, latent: LatentOfOne) -> Adapted:
        before = self._decode(params, latent[None])[0]
        progress, seen = Progress(jax.tree.map(jnp.copy, params), self._start(params)), []
        for _ in range(self.settings.iterations):
            progress, terms = self._iterate(progress=progress, x_fg=before, normal=normal, mask=mask, latent=latent)
            seen.append(terms)
        terms = Terms(*(jnp.stack(values) for values in zip(*seen, strict=True))) if seen else _no_terms()
        after = self._decode(progress.params, latent[None])[0]
        result: Adapted = self._compared(after, before, terms, normal, mask)
        return result


def background_fidelity(image: Image, normal: Image, mask: Mask) -> Fidelity:
    """Over the pixels outside the mask; where there are none, as if it were exact."""
    outside = jnp.broadcast_to((1 - mask)[..., None], image.shape)
    area = jnp.maximum(outside.sum(), 1)
    difference = outside * (jnp.clip(image, -1, 1) - normal) / WIDTH_OF_RANGE
    square = jnp.square(difference).sum() / area
    return Fidelity(-10 * jnp.log10(jnp.maximum(square, EXACT)), jnp.abs(difference).sum() / area)


def _compared(image: Image, before: Image, terms: Terms, normal: Image, mask: Mask) -> Adapted:
    of_before, of_image = (background_fidelity(x, normal, mask) for x in (before, image))
    return Adapted(image, before, terms, of_before, of_image)


def _no_terms() -> Terms:
    return Terms(jnp.zeros(0), jnp.zeros(0))
