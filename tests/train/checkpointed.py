"""What a run folder's newest checkpoint holds."""

from pathlib import Path
from typing import Any

from train.checkpoint import Checkpoints
from train.detectors import Detector
from train.epochs import initial_state
from train.loop import TrainState


def last_state(detector: Detector, out: Path, config: Any) -> TrainState:
    _, like = initial_state(detector, config)
    with Checkpoints(out / "checkpoints", detector.monitor) as checkpoints:
        assert checkpoints.latest is not None
        return checkpoints.restore(checkpoints.latest, like)[0]
