"""The training step: k updates over donated state. Knows no model."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

Inputs = Any  # a tree of arrays, one image each along the first axis
# (params, rest, inputs, key) -> (loss, (rest, metrics)), all scalars but `rest`
LossFn = Callable[[nnx.State, nnx.State, Inputs, Array], tuple[Array, tuple[nnx.State, dict[str, Array]]]]


class TrainState(NamedTuple):
    """All that changes from step to step, hence all that a checkpoint must hold."""

    step: Array
    params: nnx.State
    rest: nnx.State  # batch statistics and what was measured before the first step
    opt_state: optax.OptState
    plateau: optax.contrib.ReduceLROnPlateauState
    key: Array  # root key; step keys are folded from it, so a resumed run draws what it would have drawn
    average: nnx.State | None = None  # exponential moving average of `params`, where the recipe keeps one

    @property
    def scoring_params(self) -> nnx.State:
        """What validates and scores."""
        return self.params if self.average is None else self.average


TrainSteps = Callable[[TrainState, Array, Any], tuple[TrainState, dict[str, Array]]]


def by_index(batch: Array, resident: Any) -> Inputs:
    """The inputs of a batch that is given as indices into resident ones; without any, the batch is the inputs."""
    return batch if resident is None else jax.tree.map(lambda inputs: inputs[batch], resident)


def make_train_steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    unroll: bool,
    inputs_of: Callable[[Array, Any], Inputs] = by_index,
    micro_batches: int = 1,
    average_decay: float = 0.0,
) -> TrainSteps:
    """The compiled function of k updates.

    It takes the state (donated), batches [k, ...] and what `inputs_of(batch, resident)` turns each of them into inputs
    with: by default a tree of resident inputs [m, ...] or None. Metrics come back stacked [k]. `unroll` writes the k
    updates out instead of scanning: XLA runs convolutions in loops slowly on a CPU. `micro_batches` cuts a batch into
    equal parts whose gradients are averaged: less memory at once, and the same gradient where images do not meet.
    """

    def gradient_of(state: TrainState, inputs: Inputs, key: Array) -> Any:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        if micro_batches == 1:
            return gradient(state.params, state.rest, inputs, key)
        n, total = jax.tree.leaves(inputs)[0].shape[0] // micro_batches, None
        for part in range(micro_batches):
            some = jax.tree.map(lambda x, start=part * n: x[start : start + n], inputs)
            if total is not None:  # one part after the other, so that they share the cache
                some, total = jax.lax.optimization_barrier((some, total))  # type: ignore[no-untyped-call]
            (loss, (rest, metrics)), grads = gradient(state.params, state.rest, some, jax.random.fold_in(key, part))
            sums = loss, metrics, grads
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        loss, metrics, grads = jax.tree.map(lambda x: x / micro_batches, total)
        return (loss, (rest, metrics)), grads

    @partial(jax.jit, donate_argnums=0)
    def train_steps(state: TrainState, batches: Array, resident: Any) -> tuple[TrainState, dict[str, Array]]:
        def update(state: TrainState, batch: Array) -> tuple[TrainState, dict[str, Array]]:
            inputs = inputs_of(batch, resident)
            key = jax.random.fold_in(state.key, state.step)
            (loss, (rest, metrics)), grads = gradient_of(state, inputs, key)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            updates = jax.tree.map(lambda u: u * state.plateau.scale, updates)
            params = optax.apply_updates(state.params, updates)
            average = state.average
            if average is not None:
                average = optax.incremental_update(params, average, 1 - average_decay)
            state = TrainState(state.step + 1, params, rest, opt_state, state.plateau, state.key, average)
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
