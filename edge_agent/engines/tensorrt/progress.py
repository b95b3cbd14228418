"""How far a build is, from the nested phases that TensorRT reports."""

import threading
from collections.abc import Callable
from typing import Any

from edge_agent.engines.tensorrt.api import TensorRT

OnProgress = Callable[[str, float], None]  # phase, share of the whole in [0, 1]


class Phases:
    """Steps of the outermost phase, each filled by the phases inside it. The share never goes back."""

    def __init__(self, on_progress: OnProgress):
        self._on_progress = on_progress
        self._open: list[tuple[str, int, int]] = []  # name, steps, steps done; the outermost first
        self._share = 0.0
        self._lock = threading.Lock()
        self.failure: BaseException | None = None  # of on_progress, or Ctrl-C; to be raised when the build has ended

    def start(self, name: str, steps: int) -> None:
        with self._lock:
            self._open.append((name, max(steps, 1), 0))

    def step(self, name: str, step: int) -> bool:
        """False ends the build."""
        if self.failure is not None:
            return False
        with self._lock:
            self._open = [
                (each, steps, min(step + 1, steps) if each == name else done) for each, steps, done in self._open
            ]
            self._share = max(self._share, _share(self._open))
        self._on_progress(name, self._share)
        return True

    def finish(self, name: str) -> None:
        with self._lock:
            self._open = [phase for phase in self._open if phase[0] != name]


def _share(phases: list[tuple[str, int, int]]) -> float:
    share, size = 0.0, 1.0
    for _, steps, done in phases:
        share += size * done / steps
        size *= (1 if done < steps else 0) / steps
    return min(share, 1.0)


def make_monitor(trt: TensorRT, phases: Phases) -> Any:
    """A TensorRT IProgressMonitor that tells `phases`. No exception passes through TensorRT: it ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                phases.start(phase_name, num_steps)
            except BaseException as error:
                phases.failure = error

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return phases.step(phase_name, step)
            except BaseException as error:
                phases.failure = error
                return False

        def phase_finish(self, phase_name: str) -> None:
            try:
                phases.finish(phase_name)
            except BaseException as error:
                phases.failure = error

    return Monitor()
