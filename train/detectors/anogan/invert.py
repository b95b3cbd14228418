"""The search for the z whose image is nearest to a query. Sheet: "Inference and scoring (exact)".

All queries are searched for at once and each for itself: the loss is a sum, Adam has a state for each number of each z,
every z starts at the same point, and both networks stand still, batch normalisation folded into their kernels.
Shape letters: n images, r starts, d numbers in z, h x w pixels, c channels, s steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.detectors.anogan.frozen import FrozenForm, Networks, discriminate, generate, in_tiles
from train.detectors.anogan.layout import Layout
from train.detectors.anogan.loss import mapping_loss
from train.detectors.anogan.model import Images, Judged, Latents
from train.detectors.anogan.settings import Inversion

B1, B2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
PROGRESS = 1e-3  # share by which a loss must fall below its best to count as progress

PerImage = Float[Array, " n"]


class Search(NamedTuple):
    """Where each z is, and Adam's two moments."""

    z: Latents
    mean: Latents
    square: Latents


class Found(NamedTuple):
    """The end of a search."""

    z: Latents
    drawn: Images  # G(z)
    loss: PerImage  # L(z)
    curve: Float[Array, "s n"]  # L before each step; one value only where it isn't kept


def step(
    networks: Networks,
    x: Images,
    of_x: Judged,
    search: Search,
    number: Float[Array, ""],
    settings: Inversion,
    layout: Layout,
    form: FrozenForm,
) -> tuple[Search, PerImage]:
    """Step `number`, from 0, for all images; and L(z) before it."""

    def loss_of(z: Latents) -> tuple[Array, PerImage]:
        drawn = generate(networks, z, layout, form)
        losses = mapping_loss(x, of_x, drawn, discriminate(networks, drawn, layout, form), settings)
        return jnp.sum(losses), losses  # a sum: the gradient of one image knows nothing of the others

    gradient, losses = jax.grad(loss_of, has_aux=True)(search.z)
    mean = B1 * search.mean + (1 - B1) * gradient
    square = B2 * search.square + (1 - B2) * gradient**2
    time = number + 1
    unbiased_mean, unbiased_square = mean / (1 - B1**time), square / (1 - B2**time)
    z = search.z - rate_at(number, settings) * unbiased_mean / (jnp.sqrt(unbiased_square) + EPSILON)
    return Search(z, mean, square), losses


def rate_at(number: Array, settings: Inversion) -> Array:
    """From `rate` to `final_rate` by half a cosine."""
    share = number / max(settings.steps - 1, 1)
    fallen = 0.5 * (1 - jnp.cos(jnp.pi * share))
    return settings.rate + (settings.final_rate - settings.rate) * fallen


def invert(
    networks: Networks,
    x: Images,
    starts: Float[Array, "r d"],
    settings: Inversion,
    layout: Layout,
    form: FrozenForm,
    *,
    keep_curve: bool = False,
) -> Found:
    """The search from every start, for every image; of several ends the one with the least loss."""
    (n, r), d = (x.shape[0], starts.shape[0]), starts.shape[1]
    if form == "tiles":
        networks = in_tiles(networks, layout)
    z = jnp.broadcast_to(starts[:, None], (r, n, d)).reshape(r * n, d).astype(x.dtype)
    of_one = discriminate(networks, x, layout, form)
    repeated_x, of_x = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * r), (x, of_one))

    def advance(turn: _Turn) -> _Turn:
        moved, losses = step(
            networks, repeated_x, of_x, turn.search, turn.number.astype(x.dtype), settings, layout, form
        )
        curve = jax.lax.dynamic_update_index_in_dim(turn.curve, losses, turn.number if keep_curve else 0, axis=0)
        if not settings.patience:
            return turn._replace(number=turn.number + 1, search=moved, curve=curve)
        progressed = losses < turn.best * (1 - PROGRESS)
        waited = jnp.where(progressed, 0, turn.waited + 1)
        active = turn.active & (waited < settings.patience)
        search = jax.tree.map(lambda new, old: jnp.where(active[:, None], new, old), moved, turn.search)
        best = jnp.minimum(turn.best, losses)
        return _Turn(turn.number + 1, search, curve, best, waited, active)

    def goes_on(turn: _Turn) -> Array:
        return (turn.number < settings.steps) & turn.active.any()

    zeros = jnp.zeros_like(z)
    first = _Turn(
        jnp.zeros((), jnp.int32),
        Search(z, zeros, zeros),
        jnp.zeros((settings.steps if keep_curve else 1, r * n), x.dtype),
        jnp.full(r * n, jnp.inf, x.dtype),
        jnp.zeros(r * n, jnp.int32),
        jnp.ones(r * n, bool),
    )
    if settings.patience:
        last = jax.lax.while_loop(goes_on, advance, first)
    else:
        last, _ = jax.lax.scan(lambda turn, _: (advance(turn), None), first, length=settings.steps)
    drawn = generate(networks, last.search.z, layout, form)
    losses = mapping_loss(repeated_x, of_x, drawn, discriminate(networks, drawn, layout, form), settings)
    if keep_curve:  # where all stood still early, they stand there to the end
        reached = jnp.arange(settings.steps)[:, None] < last.number
        last = last._replace(curve=jnp.where(reached, last.curve, losses))
    if r == 1:
        return Found(last.search.z, drawn, losses, last.curve)
    chosen = losses.reshape(r, n).argmin(axis=0) * n + jnp.arange(n)
    return Found(last.search.z[chosen], drawn[chosen], losses[chosen], last.curve[:, chosen])


class _Turn(NamedTuple):
    """Between two steps."""

    number: Array
    search: Search
    curve: Array
    best: Array
    waited: Array
    active: Array
