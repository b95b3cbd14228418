"""Where triggers' messages arrive: what is one goes to the line at once, what is none is counted and told."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from edge_agent import clock
from edge_agent.connection import RECEIVED_BYTES, Received
from edge_agent.engine_state import EventNote
from edge_agent.parts.part import Trigger
from edge_agent.parts.requests import TriggerRequest, parse_trigger

log = logging.getLogger(__name__)

TOLD_EVERY_S = 60.0  # an event about refused triggers


class Line(Protocol):
    """What takes triggers. False: one gets no verdict."""

    def trigger(self, trigger: Trigger, *, redelivered: bool, too_late: str | None) -> bool: ...


class TriggerInbox:
    """Messages of the network's thread, to the line. It keeps none: the line's own queue is the bound."""

    def __init__(
        self,
        line: Line,
        window_ms: float,
        note_event: Callable[[EventNote], None],
        *,
        utc: Callable[[], datetime] = clock.utc,
        time_sync: Callable[[], str] = clock.time_sync,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._line, self._window_ms, self._note_event = line, window_ms, note_event
        self._utc, self._time_sync, self._monotonic = utc, time_sync, monotonic
        self._lock = threading.Lock()
        self.refused = 0  # messages that are no triggers, or came when nothing could be done for them
        self._untold, self._why, self._told_at = 0, "", float("-inf")

    def receive(self, received: Received) -> None:
        """Any message on the topic; returns at once, never an exception."""
        if not received.payload and received.size == 0:
            return None  # what clears a retained message
        if received.retained:
            return self._refuse("It is retained. Publish triggers without retain.")
        if received.size > RECEIVED_BYTES:
            return self._refuse(f"It has {received.size} bytes; {RECEIVED_BYTES} are the limit.")
        request = parse_trigger(received.payload)
        if isinstance(request, str):
            return self._refuse(request)
        now = self._utc()
        trigger = Trigger(request.trigger_id, now, round(1e9 * received.monotonic), request.part, request.product)
        if not self._line.trigger(trigger, redelivered=received.dup, too_late=self._too_late(request, now)):
            self._refuse("Too many parts wait for the line, or it is being stopped.")
        return None

    def report(self, *, at_once: bool = False) -> None:
        """Tell what was refused since the last event, where that is due or wanted; call it every few seconds."""
        with self._lock:
            if not self._untold or (not at_once and self._monotonic() - self._told_at < TOLD_EVERY_S):
                return
            what = "A message on `trigger` was" if self._untold == 1 else f"{self._untold} messages on `trigger` were"
            text = f"{what} refused, without a verdict. The last one: {self._why}"
            counts = {"refused": self._untold}
            self._untold, self._told_at = 0, self._monotonic()
        log.warning("%s", text)
        self._note_event(("trigger_refused", "warning", text, counts))

    def _refuse(self, why: str) -> None:
        with self._lock:
            self.refused += 1
            self._untold += 1
            self._why = why
        self.report()

    def _too_late(self, request: TriggerRequest, now: datetime) -> str | None:
        """A sentence where the part has gone by since; only a disciplined clock can tell."""
        if request.issued is None or self._time_sync() != "ok":
            return None
        took_ms = (now - request.issued).total_seconds() * 1000
        if took_ms <= self._window_ms:
            return None
        return f"The trigger took {took_ms:.0f} ms to arrive; window_ms is {self._window_ms:g}."
