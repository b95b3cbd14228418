"""What a run folder's newest checkpoint holds."""

from pathlib import Path
from typing import Any

from train.checkpoint import Checkpoints
from train.epochs import initial_state
from train.loop import TrainState
from train.system import System


def last_state(system: System, out: Path, config: Any) -> TrainState:
    _, like = initial_state(system, config)
    with Checkpoints(out / "checkpoints", system.monitor) as checkpoints:
        assert checkpoints.latest is not None
        return checkpoints.restore(checkpoints.latest, like)[0]
