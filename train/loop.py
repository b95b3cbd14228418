"""The training step: k updates over donated state, of one network or of several in turn. Knows no model."""

from collections.abc import Callable, Sequence
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
    opt_state: Any  # an optimizer's state, or with several players a dict of theirs
    plateau: optax.contrib.ReduceLROnPlateauState
    key: Array  # root key; step keys are folded from it, so a resumed run draws what it would have drawn
    average: nnx.State | None = None  # exponential moving average of `params` or parts, where the recipe keeps one

    @property
    def scoring_params(self) -> nnx.State:
        """What validates and scores."""
        if self.average is None:
            return self.params
        return self.average if len(self.average) == len(self.params) else nnx.merge_state(self.params, self.average)


def averaged_of(params: nnx.State, parts: Sequence[str]) -> nnx.State:
    """Of a model's parameters, those of these attributes; (): all."""
    if not parts:
        return params
    averaged, _ = nnx.split_state(params, lambda path, value: path[0] in parts, ...)  # type: ignore[misc]
    return averaged


TrainSteps = Callable[[TrainState, Array, Any], tuple[TrainState, dict[str, Array]]]


def by_index(batch: Array, resident: Any) -> Inputs:
    """The inputs of a batch that is given as indices into resident ones; without any, the batch is the inputs."""
    return batch if resident is None else jax.tree.map(lambda inputs: inputs[batch], resident)


class Turn(NamedTuple):
    """An update by one loss. With a name, of a player among several: what it does not move stands still meanwhile."""

    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    name: str = ""  # of its optimizer's state and its figures
    parts: tuple[str, ...] = ()  # attributes of the model whose parameters it moves; (): all of them
    updates: int = 1  # in a step, each on inputs of its own

    def moved_of(self, params: nnx.State) -> nnx.State:
        return self.split(params)[0]

    def split(self, params: nnx.State) -> tuple[nnx.State, nnx.State]:
        """What it moves, and the rest."""
        if not self.parts:
            return params, nnx.State({})
        moved, still = nnx.split_state(params, lambda path, value: path[0] in self.parts, ...)  # type: ignore[misc]
        return moved, still


def initial_optimizers(turns: Sequence[Turn], params: nnx.State) -> Any:
    """`opt_state` of a run: of all turns that it will take in any of its phases."""
    if not turns[0].name:
        return turns[0].optimizer.init(params)
    return {turn.name: turn.optimizer.init(turn.moved_of(params)) for turn in turns}


def make_train_steps(
    turns: Sequence[Turn],
    *,
    unroll: bool,
    inputs_of: Callable[[Array, Any], Inputs] = by_index,
    batches_per_step: int = 1,
    micro_batches: int = 1,
    average_decay: float = 0.0,
    average_parts: Sequence[str] = (),
) -> TrainSteps:
    """The compiled function of k steps, in each of which every turn is taken, one after the other.

    It takes the state (donated), batches [k, ...] and what `inputs_of(batch, resident)` turns each of them into inputs
    with: by default a tree of resident inputs [m, ...] or None. Metrics come back stacked [k]. `unroll` writes the k
    steps out instead of scanning: XLA runs convolutions in loops slowly on a CPU. What a step is given are
    `batches_per_step` batches, one after the other; a turn's updates see one each, from the first on. `micro_batches`
    cuts a batch into equal parts whose gradients are averaged: less memory at once, and the same gradient where images
    do not meet.
    """

    def gradient_of(loss_fn: Any, moved: nnx.State, rest: nnx.State, inputs: Inputs, key: Array) -> Any:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        if micro_batches == 1:
            return gradient(moved, rest, inputs, key)
        n, total = jax.tree.leaves(inputs)[0].shape[0] // micro_batches, None
        for part in range(micro_batches):
            some = _part(inputs, part, n)
            if total is not None:  # one part after the other, so that they share the cache
                some, total = jax.lax.optimization_barrier((some, total))  # type: ignore[no-untyped-call]
            (loss, (rest, metrics)), grads = gradient(moved, rest, some, jax.random.fold_in(key, part))
            sums = loss, metrics, grads
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        loss, metrics, grads = jax.tree.map(lambda x: x / micro_batches, total)
        return (loss, (rest, metrics)), grads

    def move(turn: Turn, state: TrainState, inputs: Inputs, key: Array) -> tuple[TrainState, dict[str, Array]]:
        moved, still = turn.split(state.params)

        def loss_fn(moved: nnx.State, *rest: Any) -> Any:
            return turn.loss_fn(nnx.merge_state(moved, still) if turn.parts else moved, *rest)

        before = state.opt_state[turn.name] if turn.name else state.opt_state
        (loss, (rest, metrics)), grads = gradient_of(loss_fn, moved, state.rest, inputs, key)
        updates, after = turn.optimizer.update(grads, before, moved)
        updates = jax.tree.map(lambda u: u * state.plateau.scale, updates)
        moved = optax.apply_updates(moved, updates)
        params = nnx.merge_state(moved, still) if turn.parts else moved
        opt_state = {**state.opt_state, turn.name: after} if turn.name else after
        loss_name = f"{turn.name}_loss" if turn.name else "loss"
        return state._replace(params=params, rest=rest, opt_state=opt_state), {loss_name: loss, **metrics}

    def take(turn: Turn, state: TrainState, inputs: Inputs, key: Array) -> tuple[TrainState, dict[str, Array]]:
        n = jax.tree.leaves(inputs)[0].shape[0] // batches_per_step
        if turn.updates == 1:
            return move(turn, state, _part(inputs, 0, n) if batches_per_step > 1 else inputs, key)

        def one(state: TrainState, number: Array) -> tuple[TrainState, dict[str, Array]]:
            return move(turn, state, _part(inputs, number, n), jax.random.fold_in(key, number))

        state, metrics = _repeated(one, state, jnp.arange(turn.updates), unroll=unroll)
        return state, jax.tree.map(jnp.mean, metrics)

    @partial(jax.jit, donate_argnums=0)
    def train_steps(state: TrainState, batches: Array, resident: Any) -> tuple[TrainState, dict[str, Array]]:
        def step(state: TrainState, batch: Array) -> tuple[TrainState, dict[str, Array]]:
            inputs = inputs_of(batch, resident)
            key, figures = jax.random.fold_in(state.key, state.step), {}
            for number, turn in enumerate(turns):
                turn_key = jax.random.fold_in(key, number) if turn.name else key
                state, metrics = take(turn, state, inputs, turn_key)
                figures.update(metrics)
            if "loss" not in figures:
                figures["loss"] = jnp.asarray(sum(figures[f"{turn.name}_loss"] for turn in turns))
            if state.average is not None:
                averaged = averaged_of(state.params, average_parts)
                average = optax.incremental_update(averaged, state.average, 1 - average_decay)
                state = state._replace(average=average)
            return state._replace(step=state.step + 1), figures

        return _repeated(step, state, batches, unroll=unroll)

    return train_steps


def _repeated(function: Any, state: TrainState, xs: Array, *, unroll: bool) -> tuple[TrainState, dict[str, Array]]:
    """A scan, or its turns written out."""
    if not unroll:
        return jax.lax.scan(function, state, xs)
    metrics = []
    for x in xs:  # `scan(unroll=True)` still leaves a loop of one turn
        state, figures = function(state, x)
        metrics.append(figures)
    return state, jax.tree.map(lambda *figures: jnp.stack(figures), *metrics)


def _part(inputs: Inputs, number: int | Array, n: int) -> Inputs:
    """The part of that number, of n inputs."""
    if isinstance(number, int):
        return jax.tree.map(lambda x: x[number * n : (number + 1) * n], inputs)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * n, n), inputs)


def mean_loss(losses: Float[Array, " n"], metrics: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Batch means of per-image values."""
    return jnp.mean(losses), {name: jnp.mean(values) for name, values in metrics.items()}
