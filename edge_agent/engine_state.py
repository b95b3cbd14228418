"""What the engine's keeper has to say, from its threads to the stage that publishes."""

import threading
from collections.abc import Callable

from edge_agent.engines.status import Incident, Status
from edge_agent.messages import EngineBuild, EngineInService, EventName, RefusedEngine, Severity

SEVERITIES: dict[EventName, Severity] = {"engine_failed": "alarm", "engine_refused": "warning"}

EventNote = tuple[EventName, Severity, str]


class EngineState:
    """Any thread notes what happened, `wake` tells the publishing one to look, and that one takes it."""

    def __init__(self, wake: Callable[[], None] = lambda: None):
        self._wake = wake
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._fresh = False
        self._events: list[EventNote] = []

    def note_status(self, status: Status) -> None:
        with self._lock:
            self._fresh = self._fresh or self._status is not None  # the first one goes out with the connection
            self._status = status
        self._wake()

    def note_incident(self, incident: Incident) -> None:
        with self._lock:
            self._events.append((incident.kind, SEVERITIES[incident.kind], incident.text))
        self._wake()

    def note_event(self, event: EventNote) -> None:
        with self._lock:
            self._events.append(event)
        self._wake()

    def take(self) -> tuple[bool, list[EventNote]]:
        """Has the status changed since the last call, and which events came."""
        with self._lock:
            fresh, events = self._fresh, self._events
            self._fresh, self._events = False, []
        return fresh, events

    @property
    def restarts(self) -> int:
        return 0 if self._status is None else self._status.restarts

    def in_service(self) -> EngineInService | None:
        """The status as it is published."""
        status = self._status
        return None if status is None else in_service(status)


def in_service(status: Status) -> EngineInService:
    building = status.building
    return EngineInService(
        name=status.name,
        precision=status.precision,
        latency_ms=status.latency_ms,
        condition=status.condition,
        asked=status.asked,
        chosen=status.chosen,
        fallback=status.fallback,
        restarts=status.restarts,
        refused=tuple(
            RefusedEngine(name=str(each.candidate), reason=each.reason, latency_ms=each.latency_ms)
            for each in status.refused
        ),
        building=None
        if building is None
        else EngineBuild(name=building.name, stage=building.stage, percent=building.percent),
    )
