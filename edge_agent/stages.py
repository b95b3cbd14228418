"""Threads joined by bounded queues: how they start, end, and break down together."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

from edge_agent.cameras import CameraError
from edge_agent.engines import EngineError
from edge_agent.outbox import OutboxError

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A stage broke down; the text is a sentence. What was decided before is stored and will be sent."""


class Wake:
    """In a queue: look at what came by other ways."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Work between two queues. It takes from `source` until None, and puts None into `sink` when it is done."""

    name: str
    work: Callable[[], None]
    source: "Queue[Any] | None"
    sink: "Queue[Any] | None"


def run_stages(stages: Sequence[Stage], stop: Callable[[], None]) -> None:
    """Run all until the stream has ended. A stage that raises ends the stream for the others; then StageError.

    stop: ends the first stage's input; called from any thread, more than once perhaps.
    """
    failures: list[StageError] = []
    threads: list[threading.Thread] = []

    def run(stage: Stage, before: threading.Thread | None) -> None:
        try:
            stage.work()
        except Exception as error:
            log.debug("The %s stage", stage.name, exc_info=True)
            expected = isinstance(error, CameraError | EngineError | OutboxError)
            text = str(error) if expected else f"{type(error).__name__}: {error}"
            failures.append(StageError(f"The {stage.name} stage broke down: {text}"))
            stop()
            if stage.sink is not None:
                stage.sink.put(None)
            # the stage before must never wait for room that nobody makes
            while stage.source is not None and before is not None and (before.is_alive() or not stage.source.empty()):
                take_all(stage.source, 0.1)

    for stage in stages:
        before = threads[-1] if threads else None
        threads.append(threading.Thread(target=run, args=(stage, before), name=stage.name, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def take_all(queue: "Queue[Any]", timeout: float) -> list[Any]:
    """Everything that waits in the queue; where nothing does, the first thing to come within `timeout` seconds."""
    items: list[Any] = []
    try:
        items.append(queue.get(timeout=timeout))
        while True:
            items.append(queue.get_nowait())
    except Empty:
        return items


def wake(queue: "Queue[Any]") -> None:
    """Never blocks: whoever has a full queue before it is about to look anyway."""
    try:
        queue.put_nowait(Wake())
    except Full:
        return
