"""What the engines' keepers have to say, from their threads to the stage that publishes."""

import threading
from collections.abc import Callable

from edge_agent.engines.status import Incident, Status
from edge_agent.messages import EngineBuild, EngineInService, EventName, RefusedEngine, Severity

SEVERITIES: dict[EventName, Severity] = {"engine_failed": "alarm", "engine_refused": "warning"}

EventNote = tuple[EventName, Severity, str] | tuple[EventName, Severity, str, dict[str, int]]  # the last: `counts`


class EngineState:
    """Any thread notes what happened, `wake` tells the publishing one to look, and that one takes it."""

    def __init__(self, wake: Callable[[], None] = lambda: None):
        self._wake = wake
        self._lock = threading.Lock()
        self._fresh = False
        self._events: list[EventNote] = []
        self._restarts = 0

    def note_change(self, *, restarts: int = 0) -> None:
        """An engine in service has another status; so many new processes were started for it since the last one."""
        with self._lock:
            self._fresh = True
            self._restarts += restarts
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
        """New processes since the agent's start, of all engines that were in service."""
        return self._restarts

    def in_service(self, voice: "Voice | None") -> EngineInService | None:
        """The status of one engine as it is published."""
        status = None if voice is None else voice.status
        return None if status is None else in_service(status, self._restarts)


class Voice:
    """Of one engine's keeper: passed on while its bundle serves; before and after that nobody hears it."""

    def __init__(self, state: EngineState, *, speaks: bool):
        self._state, self._speaks = state, speaks
        self._lock = threading.Lock()
        self._status: Status | None = None

    @property
    def status(self) -> Status | None:
        return self._status

    def note_status(self, status: Status) -> None:
        with self._lock:
            before, self._status = self._status, status
        if before is not None and self._speaks:  # the first one goes out with the connection
            self._state.note_change(restarts=status.restarts - before.restarts)

    def note_incident(self, incident: Incident) -> None:
        if self._speaks:
            self._state.note_incident(incident)

    def speak(self) -> None:
        """Its bundle serves from now on."""
        with self._lock:
            self._speaks = True
        self._state.note_change()

    def be_silent(self) -> None:
        with self._lock:
            self._speaks = False


def in_service(status: Status, restarts: int) -> EngineInService:
    building = status.building
    return EngineInService(
        name=status.name,
        precision=status.precision,
        latency_ms=status.latency_ms,
        condition=status.condition,
        asked=status.asked,
        chosen=status.chosen,
        fallback=status.fallback,
        restarts=restarts,
        refused=tuple(
            RefusedEngine(name=str(each.candidate), reason=each.reason, latency_ms=each.latency_ms)
            for each in status.refused
        ),
        building=None
        if building is None
        else EngineBuild(name=building.name, stage=building.stage, percent=building.percent),
    )
