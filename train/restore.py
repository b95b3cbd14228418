"""The folder of a training opened again, a detector's or a generator's: its settings, then a checkpoint's model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from train.checkpoint import CheckpointError, Checkpoints
from train.config import ConfigError, load_config
from train.epochs import initial_state
from train.provenance import Value


class RunError(RuntimeError):
    """A run folder can't be used; the text says what is missing and what to do."""


@dataclass(frozen=True)
class FolderKind:
    """What a detector's folder and a generator's differ in."""

    called: str
    verb: str  # that writes it
    files: tuple[str, ...]  # that it can't do without
    system_of: Callable[[Mapping[str, Value]], Any]  # of its provenance; KeyError where there is none


@dataclass(frozen=True)
class Training:
    """What the folder says of itself."""

    folder: Path
    kind: FolderKind
    system: Any
    config: Any  # with the overrides
    trained: Any  # the config that it was trained with
    provenance: dict[str, Value]


@dataclass(frozen=True)
class Restored:
    """A checkpoint's model in evaluation mode."""

    step: int
    model: Any
    figures: tuple[dict[str, float], ...]  # of every epoch up to the checkpoint


def read_training(folder: Path, kind: FolderKind, overrides: Sequence[str] = ()) -> Training:
    """RunError says what is missing."""
    if (other := _of_another_kind(folder, kind)) is not None:
        raise RunError(
            f"{folder} is not {kind.called}, but a run of {other}. Name the --out folder of `train {kind.verb}`."
        )
    for name in kind.files:
        if not (folder / name).exists():
            raise RunError(
                f"{folder} is not {kind.called}: it has no {name}. Name the --out folder of `train {kind.verb}`."
            )
    try:
        provenance = json.loads((folder / "provenance.json").read_text())
        system = kind.system_of(provenance)
        config = load_config(folder / "config.yaml", system.schema, overrides)
        trained = load_config(folder / "config.yaml", system.schema)
    except (json.JSONDecodeError, KeyError, ConfigError) as error:
        said = error.args[0] if error.args else error  # a KeyError's text is its argument in quotes
        raise RunError(f"{folder} can't be read: {said}") from None
    return Training(folder, kind, system, config, trained, provenance)


def _of_another_kind(folder: Path, kind: FolderKind) -> str | None:
    """The system of a run that this kind does not have; None where there is none to be read."""
    try:
        system = str(json.loads((folder / "provenance.json").read_text())["system"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    try:
        kind.system_of({"system": system})
    except KeyError:
        return system
    return None


def restore(training: Training, step: int | None = None) -> Restored:
    """The checkpoint that the recipe picks, or that of a step (0: untrained). RunError where there is none."""
    folder, system = training.folder, training.system
    graph, state = initial_state(system, training.trained)
    drawn = state.params
    with Checkpoints(folder / "checkpoints", system.monitor) as checkpoints:
        if step is None:
            step = checkpoints.best if system.checkpoint(training.config) == "best" else checkpoints.latest
        if step is None:
            raise RunError(f"{folder} has no checkpoint yet. Let `train {training.kind.verb} --resume` finish it.")
        if step and step not in checkpoints.steps:
            kept = ", ".join(map(str, checkpoints.steps))
            raise RunError(f"{folder} has no checkpoint of step {step}. It has those of {kept}.")
        try:
            state, history = checkpoints.restore(step or checkpoints.steps[0], state)
        except CheckpointError as error:
            raise RunError(
                f"The checkpoint of step {error.step} in {folder} does not hold what {system.name} is made of: "
                f"{', '.join(error.missing)} is missing. Copy the whole folder again, or train a new run."
            ) from None
    model = nnx.merge(graph, state.scoring_params if step else drawn, state.rest)
    model.eval()
    return Restored(step, model, tuple(history.get("figures", ())) if step else ())
