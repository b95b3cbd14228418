"""Checkpoints of a run (Orbax): the newest two, to resume from, and the best, which is shipped."""

import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from train.loop import TrainState

PREFIX = "step"  # of a checkpoint's folder; Orbax writes the number behind it


class CheckpointError(RuntimeError):
    """A checkpoint is not one of this model's."""

    def __init__(self, step: int, missing: list[str]):
        super().__init__(f"step {step}, {', '.join(missing)}")
        self.step, self.missing = step, missing


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from; one that is being written is none."""
    return any(re.fullmatch(rf"{PREFIX}_\d+", path.name) for path in folder.glob("*"))


class Checkpoints:
    """RUN/checkpoints. One is written beside its place and renamed, so a killed run never leaves half of one."""

    def __init__(self, folder: Path, monitor: str, *, keep_all: bool = False):
        """`monitor` names the metric whose largest value makes the best checkpoint; `keep_all` is for studies."""
        self._monitor, self._folder = monitor, folder
        policy = AnyPreservationPolicy(
            [LatestN(2), BestN(get_metric_fn=lambda metrics: metrics[monitor], n=1, reverse=False)]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[monitor],
            best_mode="max",
            preservation_policy=LatestN(None) if keep_all else policy,
            enable_async_checkpointing=False,
            step_prefix=PREFIX,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, metrics: dict[str, float], history: dict[str, Any]) -> None:
        """Durable on return. `history` is what the loop remembers beside the state (JSON)."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(state=ocp.args.StandardSave(_storable(state)), history=ocp.args.JsonSave(history)),
            metrics=metrics,
        )

    @property
    def latest(self) -> int | None:
        return cast("int | None", self._manager.latest_step())

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are kept, in order."""
        return sorted(self._manager.all_steps())

    @property
    def best(self) -> int | None:
        return cast("int | None", self._manager.best_step())

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and history of a step; `like` gives structure, shapes and dtypes.

        Raises CheckpointError where the checkpoint lacks networks that `like` has.
        """
        if missing := self._missing(step, like):
            raise CheckpointError(step, missing)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(like))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore()),
        )
        state = TrainState(**restored["state"])
        return state._replace(key=jax.random.wrap_key_data(state.key)), restored["history"]

    def _missing(self, step: int, like: TrainState) -> list[str]:
        """Attributes of the model without parameters in the checkpoint."""
        file = self._folder / f"{PREFIX}_{step}" / "state" / "_METADATA"  # Orbax's list of what it has stored
        if not file.exists():
            return []
        paths = json.loads(file.read_text())["tree_metadata"].values()
        keys = [[str(part["key"]) for part in path["key_metadata"]] for path in paths]
        stored = {path[1] for path in keys if path[0] == "params"}
        return sorted(str(name) for name in like.params if str(name) not in stored)

    def metrics(self, step: int) -> dict[str, float]:
        return dict(self._manager.metrics(step) or {})

    def close(self) -> None:
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _storable(state: TrainState) -> dict[str, Any]:
    """Typed keys as their raw numbers; an average only where there is one."""
    stored = state._replace(key=jax.random.key_data(state.key))._asdict()
    return {name: value for name, value in stored.items() if value is not None}
