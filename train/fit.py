"""Training a detector: images -> loop -> checkpoints -> thresholds. Reading `fit` alone shows all of it."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from tensorboardX import SummaryWriter

from train.checkpoint import Checkpoints
from train.config import ConfigError, RunConfig, config_digest, dump_config, load_config
from train.data.batches import load_images, stacked
from train.data.folder import Dataset, Sample, digest
from train.data.samples import file_digest
from train.detectors import Detector
from train.durable import write_text
from train.fit_threshold import Thresholds
from train.inputs import TrainingInputs, encode_all, parts_of, training_inputs
from train.loop import TrainState, TrainSteps, by_index, make_train_steps
from train.mask import MASK_FILE, Mask, load_mask, write_mask
from train.optimizer import build_plateau
from train.pictures import PICTURES, write_picture
from train.players import Phase, all_players, batches_per_step, phase_at, turns_of
from train.progress import Work
from train.provenance import describe
from train.run import (
    MASK_DIGEST,
    RunError,
    frozen_file,
    initial_state,
    open_run,
    preprocessing_of,
    restore_mask,
    write_held_out,
)

MIN_HELD_OUT = 4
SPLIT_STREAM, VALIDATION_STREAM = 2, 3  # folded into the run's seed
DIVERGED = 100.0  # times the best epoch's mean loss, or the first one's where losses fall below zero


class TrainingDiverged(RuntimeError):
    """The loss is no number any more, or has run away; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Split:
    """Good training images: trained on, and held out."""

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]


def split_good(samples: Sequence[Sample], fraction: float, seed: int) -> Split:
    """Holds out a random `fraction`, at least four, never more than half."""
    count = min(max(round(fraction * len(samples)), MIN_HELD_OUT), len(samples) // 2)
    if count < MIN_HELD_OUT:
        raise RunError(
            f"{len(samples)} good images are too few to train on and to hold {MIN_HELD_OUT} out. "
            "Record more good parts."
        )
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(len(samples))
    held_out = set(order[:count].tolist())
    return Split(
        tuple(sample for i, sample in enumerate(samples) if i not in held_out),
        tuple(sample for i, sample in enumerate(samples) if i in held_out),
    )


def fit(
    detector: Detector,
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    product: str,
    resume: bool = False,
    keep_all: bool = False,
) -> Thresholds:
    """Trains into the run folder `out` and fits the thresholds.

    With `resume` a killed run goes on from its newest checkpoint and ends with the numbers of one never killed.
    `keep_all` keeps the checkpoint of every epoch, for studies of how a run went.
    Raises RunError, ConfigError, TrainingDiverged.
    """
    split = split_good(dataset.train, config.validation_fraction, config.seed)
    mask = _mask(detector, config, dataset, out)
    config = _with_steps(detector, config, len(split.train) * len(parts_of(detector, config, mask)))
    frozen = _frozen_part(detector, config, out)
    _open_folder(detector, config, dataset, out, frozen, mask, product=product, resume=resume)
    preprocessing = preprocessing_of(config)
    names = [sample.path.relative_to(dataset.root).as_posix() for sample in split.held_out]
    with Work("reading held-out images", len(split.held_out)) as work:
        held_out = load_images([sample.path for sample in split.held_out], preprocessing, work.done)
    if not (out / "split.json").exists():
        trained_on = [sample.path.relative_to(dataset.root).as_posix() for sample in split.train]
        write_text(out / "split.json", json.dumps({"train": trained_on, "held_out": names}, indent=1))
        write_held_out(out, held_out, names)
    _train(detector, config, frozen, mask, split.train, held_out, out, keep_all)
    thresholds = open_run(out).fit_thresholds()
    write_text(out / "thresholds.json", thresholds.model_dump_json(indent=2))
    return thresholds


def _with_steps(detector: Detector, config: Any, n_train: int) -> Any:
    """The config with an epoch's steps as a number; 0 stands for one pass over the training images, or their tiles."""
    if config.steps_per_epoch:
        return config
    batches = batches_per_step(detector.phases(config))
    if n_train < config.batch_size * batches:
        several = "a batch" if batches == 1 else f"{batches} batches"
        raise RunError(
            f"{n_train} training images don't fill {several} of {config.batch_size}, so an epoch of one pass has no "
            "step. Set a smaller batch_size, or steps_per_epoch."
        )
    return config.model_copy(update={"steps_per_epoch": n_train // (config.batch_size * batches)})


def _mask(detector: Detector, config: RunConfig, dataset: Dataset, out: Path) -> Mask | None:
    """The one that is set, else that of the run folder."""
    path = detector.masking.file(config) if detector.masking else None
    if detector.masking is None or path is None:
        return restore_mask(out, _read_provenance(out)) if (out / "config.yaml").exists() else None
    return load_mask(path, preprocessing_of(config), dataset.train, cell=detector.masking.cell(config))


def _read_provenance(out: Path) -> dict[str, Any]:
    try:
        provenance: dict[str, Any] = json.loads((out / "provenance.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{out} can't be resumed: {error}") from None
    return provenance


def _frozen_part(detector: Detector, config: RunConfig, out: Path) -> nnx.Module | None:
    """From the run folder where it is there already, else from where the config says."""
    if detector.frozen is None:
        return None
    path = frozen_file(out, detector.frozen)
    return detector.frozen.restore(path, config) if path.exists() else detector.frozen.load(config)


def _open_folder(
    detector: Detector,
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    frozen: nnx.Module | None,
    mask: Mask | None,
    *,
    product: str,
    resume: bool,
) -> None:
    """Starts a run folder, or checks that the one to resume is of the same settings and data."""
    data_digest = digest(dataset)
    if not (out / "config.yaml").exists():
        if out.exists() and any(not _is_of_a_start(path, detector) for path in out.iterdir()):
            raise RunError(f"{out} is not empty and is no run folder. Give --out a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        device = jax.devices()[0]
        provenance = {
            "system": detector.name,
            "config_digest": config_digest(config),
            **describe(product, data_digest, f"{device.platform} {device.device_kind}"),
        }
        if detector.frozen is not None:
            path = frozen_file(out, detector.frozen)
            detector.frozen.save(path, frozen)
            provenance[f"{detector.frozen.name}_sha256"] = file_digest(path)
        if mask is not None:
            write_mask(out / MASK_FILE, mask)
            provenance[MASK_DIGEST] = file_digest(out / MASK_FILE)
        write_text(out / "provenance.json", json.dumps(provenance, indent=2))
        header = [f"{detector.name}, settings as resolved", *(f"{k}: {v}" for k, v in provenance.items())]
        write_text(out / "config.yaml", dump_config(config, header))
        return
    if not resume:
        raise RunError(f"{out} holds a run already. Continue it with --resume, or give --out a new folder.")
    provenance = _read_provenance(out)
    try:
        before = load_config(out / "config.yaml", detector.schema)
    except ConfigError as error:
        raise RunError(f"{out} can't be resumed: {error}") from None
    for name, field in detector.schema.model_fields.items():
        old, new = getattr(before, name), getattr(config, name)
        if old != new and not field.exclude:
            raise RunError(
                f"{out} was started with {name}: {old}, and is to go on with {name}: {new}. "
                f"Resume with --config {out / 'config.yaml'}, or give --out a new folder."
            )
    started_with = restore_mask(out, provenance)
    if mask is not None and (started_with is None or not np.array_equal(started_with, mask)):
        what = "no mask" if started_with is None else "another mask"
        raise RunError(f"{out} was started with {what}. Resume without --set mask=..., or give --out a new folder.")
    if provenance.get("data_digest") != data_digest:
        raise RunError(f"{out} was started on other images than {dataset.root} holds now. Give --out a new folder.")


def _is_of_a_start(path: Path, detector: Detector) -> bool:
    """Whether `fit` writes this file, or a part of it, before config.yaml: what a run killed at once may leave."""
    names = {"config.yaml", "provenance.json", MASK_FILE}
    if detector.frozen is not None:
        names.add(frozen_file(path.parent, detector.frozen).name)
    return path.name in names or any(path.name.startswith(f".{name}.") for name in names)


def _train(
    detector: Detector,
    config: RunConfig,
    frozen: nnx.Module | None,
    mask: Mask | None,
    samples: Sequence[Sample],
    held_out: np.ndarray,
    out: Path,
    keep_all: bool,
) -> None:
    graph, state = initial_state(detector, config)
    history: dict[str, Any] = {}
    plateau = build_plateau(config)
    total = config.epochs * config.steps_per_epoch
    with Checkpoints(out / "checkpoints", detector.monitor, keep_all=keep_all) as checkpoints:
        if checkpoints.latest is not None:
            state, history = checkpoints.restore(checkpoints.latest, state)
        start = int(state.step)
        if start >= total:
            return
        inputs = training_inputs(detector, config, frozen, samples, preprocessing_of(config), mask)
        if detector.measure is not None and start == 0:
            state = _measured(detector, graph, state, inputs)
        steps_of = cache(lambda phase: training_steps(detector, config, graph, inputs, phase))
        phases = detector.phases(config)
        validate = _validation(detector, config, graph, encode_all(detector, config, frozen, held_out, mask))
        draw = _drawing(detector, config, graph)
        with (
            SummaryWriter(str(out / "events"), purge_step=start, flush_secs=10) as events,
            Work("training", total, done=start) as work,
        ):
            for epoch in range(start // config.steps_per_epoch, config.epochs):
                train_steps, collected = steps_of(phase_at(phases, epoch)), []
                first = epoch * config.steps_per_epoch
                for batches in stacked(inputs.batches(first, first + config.steps_per_epoch), _per_dispatch(config)):
                    state, metrics = train_steps(state, jnp.asarray(batches), inputs.resident)
                    collected.append({name: np.asarray(values) for name, values in metrics.items()})
                    losses = collected[-1]["loss"]
                    _check_finite(losses, int(state.step), checkpoints, out)
                    work.done(len(losses), f"loss {losses[-1]:.5g}")
                figures = {name: float(np.mean(np.concatenate([m[name] for m in collected]))) for name in collected[0]}
                loss = figures["loss"]
                if len(all_players(phases)) == 1:  # where players work against each other, losses rise as they should
                    _check_divergence(loss, history, epoch, checkpoints, out)
                figures |= validate(state, epoch)
                if config.schedule == "plateau":
                    _, plateau_state = plateau.update({}, state.plateau, value=jnp.asarray(-figures[detector.monitor]))
                    state = state._replace(plateau=plateau_state)
                history = {
                    "best_loss": min(loss, history.get("best_loss", loss)),
                    "first_loss": history.get("first_loss", loss),
                    "figures": [*history.get("figures", ()), figures],
                }
                if detector.picture is not None:
                    write_picture(out / PICTURES / f"epoch_{epoch + 1:04}.png", draw(state))
                checkpoints.save(state, figures, history)
                for name, value in figures.items():
                    events.add_scalar(name, value, int(state.step))
                events.add_scalar("learning_rate_factor", float(state.plateau.scale), int(state.step))
                work.say(
                    f"epoch {epoch + 1}/{config.epochs}: loss {loss:.5g}, held-out {detector.monitor} "
                    f"{figures[detector.monitor]:.2f} {detector.monitor_unit}"
                )
                for sentence in detector.watch(figures, config):
                    work.say(f"epoch {epoch + 1}: {sentence}")


def _measured(detector: Detector, graph: nnx.GraphDef, state: TrainState, inputs: TrainingInputs) -> TrainState:
    """The state with the statistics of the training inputs in it."""
    assert detector.measure is not None
    model = nnx.merge(graph, state.params, state.rest, copy=True)
    detector.measure(model, inputs.all)
    return state._replace(rest=nnx.state(model, nnx.Not(nnx.Param)))


def training_steps(
    detector: Detector,
    config: RunConfig,
    graph: nnx.GraphDef,
    inputs: TrainingInputs | None = None,
    phase: Phase | None = None,
) -> TrainSteps:
    """The compiled training step of a detector, by default of its first phase; written out on a CPU, else scanned."""
    phases = detector.phases(config)
    return make_train_steps(
        turns_of((phase or phases[0]).players, config, graph),
        unroll=jax.default_backend() == "cpu",
        inputs_of=inputs.inputs_of if inputs else by_index,
        batches_per_step=batches_per_step(phases),
        micro_batches=detector.micro_batches(config),
        average_decay=detector.average_decay(config),
    )


def _drawing(detector: Detector, config: RunConfig, graph: nnx.GraphDef) -> Callable[[TrainState], np.ndarray]:
    def draw(state: TrainState) -> np.ndarray:
        model = nnx.merge(graph, state.scoring_params, state.rest, copy=True)
        model.eval()
        assert detector.picture is not None
        return detector.picture(model, config)

    return draw


def _validation(detector: Detector, config: RunConfig, graph: nnx.GraphDef, held_out: Any) -> Any:
    """(state, epoch) -> mean metrics of `validation_samples` held-out inputs, the same in a resumed run."""
    count = len(jax.tree.leaves(held_out)[0])

    @partial(jax.jit)
    def validate_batch(params: nnx.State, rest: nnx.State, inputs: Any, key: Array) -> dict[str, Array]:
        model = nnx.merge(graph, params, rest, copy=True)
        model.eval()
        return detector.validate(model, inputs, key, config)

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


def _per_dispatch(config: RunConfig) -> int:
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
    if not history:
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
