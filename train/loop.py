"""The training step: k updates over donated state. Knows no model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

# (params, rest, images, key) -> (loss, (rest, metrics)), all scalars but `rest`
LossFn = Callable[[nnx.State, nnx.State, Array, Array], tuple[Array, tuple[nnx.State, dict[str, Array]]]]


class TrainState(NamedTuple):
    """All that changes from step to step, hence all that a checkpoint must hold."""

    step: Array
    params: nnx.State
    rest: nnx.State  # batch statistics and what is frozen
    opt_state: optax.OptState
    plateau: optax.contrib.ReduceLROnPlateauState
    key: Array  # root key; step keys are folded from it, so a resumed run draws what it would have drawn


TrainSteps = Callable[[TrainState, Array, Array | None], tuple[TrainState, dict[str, Array]]]


def make_train_steps(loss_fn: LossFn, optimizer: optax.GradientTransformation, *, unroll: bool) -> TrainSteps:
    """The compiled function of k updates.

    It takes the state (donated), batches [k, ...] and the resident images or None: with resident images [m, h, w, 3] a
    batch is indices [k, n] into them, without it is the images themselves [k, n, h, w, 3]. Metrics come back
    stacked [k]. `unroll` writes the k updates out instead of scanning: XLA runs convolutions in loops slowly on a CPU.
    """

    @partial(jax.jit, donate_argnums=0)
    def train_steps(state: TrainState, batches: Array, resident: Array | None) -> tuple[TrainState, dict[str, Array]]:
        def update(state: TrainState, batch: Array) -> tuple[TrainState, dict[str, Array]]:
            images = batch if resident is None else resident[batch]
            key = jax.random.fold_in(state.key, state.step)
            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, (rest, metrics)), grads = gradient(state.params, state.rest, images, key)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            updates = jax.tree.map(lambda u: u * state.plateau.scale, updates)
            params = optax.apply_updates(state.params, updates)
            state = TrainState(state.step + 1, params, rest, opt_state, state.plateau, state.key)
            return state, {"loss": loss, **metrics}

        if not unroll:
            return jax.lax.scan(update, state, batches)
        metrics = []
        for batch in batches:  # `scan(unroll=True)` still leaves a loop of one turn
            state, figures = update(state, batch)
            metrics.append(figures)
        return state, jax.tree.map(lambda *figures: jnp.stack(figures), *metrics)

    return train_steps


def mean_loss(losses: Float[Array, " n"], metrics: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Batch means of per-image values."""
    return jnp.mean(losses), {name: jnp.mean(values) for name, values in metrics.items()}
