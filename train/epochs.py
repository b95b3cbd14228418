"""The epochs of a run, whatever is trained: steps, validation, checkpoints, events, pictures, divergence."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8
from tensorboardX import SummaryWriter

from train.checkpoint import Checkpoints
from train.config import TrainingConfig
from train.data.batches import stacked
from train.inputs import TrainingInputs
from train.loop import TrainState, TrainSteps, averaged_of, by_index, initial_optimizers, make_train_steps
from train.memory import memory_suffices
from train.optimizer import build_plateau
from train.pictures import PICTURES, write_picture
from train.players import Phase, all_players, batches_per_step, first_epochs, phase_at, turns_of
from train.progress import Work
from train.system import System

VALIDATION_STREAM = 3  # folded into the run's seed
DIVERGED = 100.0  # times the best epoch's mean loss, or the first one's where losses fall below zero


class TrainingDiverged(RuntimeError):
    """The loss is no number any more, or has run away; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Material:
    """What epochs are made of."""

    inputs: TrainingInputs
    held_out: Any  # inputs to validate on
    draw: Callable[[Any], UInt8[np.ndarray, "h w 3"]] | None = None  # model in evaluation mode -> what it draws
    start: Callable[[Any], None] | None = None  # gives a fresh model, in place, what is not drawn but brought


def initial_state(system: System, config: TrainingConfig) -> tuple[nnx.GraphDef, TrainState]:
    """Everything drawn from the run's seed."""
    model = system.build(config, nnx.Rngs(config.seed))
    model.train()  # type: ignore[no-untyped-call]
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    averaged = averaged_of(params, system.average_parts)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=initial_optimizers(turns_of(all_players(system.phases(config)), config, graph), params),
        plateau=build_plateau(config).init(params),
        key=jax.random.key(config.seed),
        average=jax.tree.map(jnp.copy, averaged) if system.average_decay(config) else None,
    )
    return graph, state


def train_epochs(
    system: System, config: TrainingConfig, prepare: Callable[[], Material], out: Path, *, keep_all: bool = False
) -> None:
    """Trains to the end from the newest checkpoint of the run folder `out`, if it has any.

    A killed run goes on with the numbers of one never killed. `prepare` is called only where something is left to do.
    Raises TrainingDiverged, OutOfMemory.
    """
    with memory_suffices(system.lowers_memory):
        _train_epochs(system, config, prepare, out, keep_all=keep_all)


def _train_epochs(
    system: System, config: TrainingConfig, prepare: Callable[[], Material], out: Path, *, keep_all: bool
) -> None:
    graph, state = initial_state(system, config)
    history: dict[str, Any] = {}
    plateau = build_plateau(config)
    total = config.epochs * config.steps_per_epoch
    with Checkpoints(out / "checkpoints", system.monitor, keep_all=keep_all) as checkpoints:
        if checkpoints.latest is not None:
            state, history = checkpoints.restore(checkpoints.latest, state)
        start = int(state.step)
        if start >= total:
            return
        material = prepare()
        inputs = material.inputs
        if material.start is not None and start == 0:
            state = _changed(graph, state, system, material.start)
        if system.measure is not None and start == 0:
            state = _measured(system, graph, state, inputs)
        steps_of = cache(lambda phase: training_steps(system, config, graph, inputs, phase))
        phases = system.phases(config)
        validate = _validation(system, config, graph, material.held_out)
        with (
            SummaryWriter(str(out / "events"), purge_step=start, flush_secs=10) as events,
            Work("training", total, done=start) as work,
        ):
            for epoch in range(start // config.steps_per_epoch, config.epochs):
                phase = phase_at(phases, epoch)
                if epoch in first_epochs(phases):
                    history = {name: value for name, value in history.items() if name == "figures"}  # another loss
                    if phase.start is not None:
                        state = _changed(graph, state, system, phase.start)
                train_steps, collected = steps_of(phase), []
                first = epoch * config.steps_per_epoch
                for batches in stacked(inputs.batches(first, first + config.steps_per_epoch), _per_dispatch(config)):
                    state, metrics = train_steps(state, jnp.asarray(batches), inputs.resident)
                    collected.append({name: np.asarray(values) for name, values in metrics.items()})
                    losses = collected[-1]["loss"]
                    _check_finite(losses, int(state.step), checkpoints, out)
                    work.done(len(losses), f"loss {losses[-1]:.5g}")
                figures = {name: float(np.mean(np.concatenate([m[name] for m in collected]))) for name in collected[0]}
                loss = figures["loss"]
                if len(phase.players) == 1:  # where players work against each other, losses rise as they should
                    _check_divergence(loss, history, epoch, checkpoints, out)
                figures |= validate(state, epoch)
                if config.schedule == "plateau":
                    _, plateau_state = plateau.update({}, state.plateau, value=jnp.asarray(-figures[system.monitor]))
                    state = state._replace(plateau=plateau_state)
                history = {
                    "best_loss": min(loss, history.get("best_loss", loss)),
                    "first_loss": history.get("first_loss", loss),
                    "figures": [*history.get("figures", ()), figures],
                }
                if material.draw is not None:
                    picture = material.draw(evaluated(graph, state))
                    write_picture(out / PICTURES / f"epoch_{epoch + 1:04}.png", picture)
                checkpoints.save(state, figures, history)
                for name, value in figures.items():
                    events.add_scalar(name, value, int(state.step))
                events.add_scalar("learning_rate_factor", float(state.plateau.scale), int(state.step))
                work.say(
                    f"epoch {epoch + 1}/{config.epochs}: loss {loss:.5g}, held-out {system.monitor} "
                    f"{figures[system.monitor]:.2f} {system.monitor_unit}"
                )
                for sentence in system.watch(figures, config):
                    work.say(f"epoch {epoch + 1}: {sentence}")


def evaluated(graph: nnx.GraphDef, state: TrainState) -> Any:
    """The model in evaluation mode, as it scores or draws."""
    model = nnx.merge(graph, state.scoring_params, state.rest, copy=True)
    model.eval()
    return model


def _changed(graph: nnx.GraphDef, state: TrainState, system: System, change: Callable[[Any], None]) -> TrainState:
    """The state with the model that scores or draws changed in place."""
    model = nnx.merge(graph, state.scoring_params, state.rest, copy=True)
    change(model)
    _, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    params = jax.tree.map(jnp.copy, params)  # a step gives its state away: no array may be in it twice
    average = None if state.average is None else jax.tree.map(jnp.copy, averaged_of(params, system.average_parts))
    return state._replace(params=params, rest=rest, average=average)


def _measured(system: System, graph: nnx.GraphDef, state: TrainState, inputs: TrainingInputs) -> TrainState:
    """The state with the statistics of the training inputs in it."""
    assert system.measure is not None
    model = nnx.merge(graph, state.params, state.rest, copy=True)
    system.measure(model, inputs.all)
    return state._replace(rest=nnx.state(model, nnx.Not(nnx.Param)))


def training_steps(
    system: System,
    config: TrainingConfig,
    graph: nnx.GraphDef,
    inputs: TrainingInputs | None = None,
    phase: Phase | None = None,
) -> TrainSteps:
    """The compiled training step of a system, by default of its first phase; written out on a CPU, else scanned."""
    phases = system.phases(config)
    phase, inputs_of = phase or phases[0], inputs.inputs_of if inputs else by_index
    return make_train_steps(
        turns_of(phase.players, config, graph),
        unroll=jax.default_backend() == "cpu",
        inputs_of=lambda batch, resident: phase.sees(inputs_of(batch, resident)),
        batches_per_step=batches_per_step(phases),
        micro_batches=system.micro_batches(config),
        average_decay=system.average_decay(config),
        average_parts=system.average_parts,
    )


def _validation(system: System, config: TrainingConfig, graph: nnx.GraphDef, held_out: Any) -> Any:
    """(state, epoch) -> mean metrics of `validation_samples` held-out inputs, the same in a resumed run."""
    count = len(jax.tree.leaves(held_out)[0])

    @partial(jax.jit)
    def validate_batch(params: nnx.State, rest: nnx.State, inputs: Any, key: Array) -> dict[str, Array]:
        model = nnx.merge(graph, params, rest, copy=True)
        model.eval()
        return system.validate(model, inputs, key, config)

    def validate(state: TrainState, epoch: int) -> dict[str, float]:
        root = jax.random.fold_in(jax.random.fold_in(state.key, VALIDATION_STREAM), epoch)
        collected: dict[str, list[np.ndarray]] = {}
        for batch in range(math.ceil(config.validation_samples / config.batch_size)):
            index = np.arange(batch * config.batch_size, (batch + 1) * config.batch_size) % count
            some = jax.tree.map(lambda inputs, index=index: inputs[index], held_out)
            metrics = validate_batch(state.scoring_params, state.rest, some, jax.random.fold_in(root, batch))
            for name, values in metrics.items():
                collected.setdefault(name, []).append(np.asarray(values))
        return {name: float(np.mean(np.concatenate(values))) for name, values in collected.items()}

    return validate


def _per_dispatch(config: TrainingConfig) -> int:
    """The largest divisor of an epoch's steps up to what was asked for, so that one program serves the whole run."""
    wanted = config.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 25)
    return max(k for k in range(1, min(wanted, config.steps_per_epoch) + 1) if config.steps_per_epoch % k == 0)


def _check_finite(losses: np.ndarray, step: int, checkpoints: Checkpoints, out: Path) -> None:
    if not np.isfinite(losses).all():
        first = step - len(losses) + int(np.argmin(np.isfinite(losses)))
        raise TrainingDiverged(
            f"The loss of step {first} is {losses[~np.isfinite(losses)][0]}. {_kept(checkpoints, out)}"
        )


def _check_divergence(loss: float, history: dict[str, Any], epoch: int, checkpoints: Checkpoints, out: Path) -> None:
    if "best_loss" not in history:
        return
    best, first = history["best_loss"], abs(history.get("first_loss", history["best_loss"]))
    if loss > (max(DIVERGED * best, first) if best > 0 else DIVERGED * first):  # a likelihood's loss may be negative
        raise TrainingDiverged(
            f"The mean loss of epoch {epoch + 1} is {loss:.4g}, that of the best epoch {best:.4g}. "
            f"{_kept(checkpoints, out)}"
        )


def _kept(checkpoints: Checkpoints, out: Path) -> str:
    kept = f"The checkpoint of step {checkpoints.latest} is kept in {out}." if checkpoints.latest else "None was saved."
    return f"{kept} Train a new run with a smaller learning_rate or with warmup_steps."
