"""Is this agent the only one of its name? What others publish on its own `state` topic tells.

Two agents get one name by a copied SD card or a copied configuration. With one client id the broker gives the session
to whoever came last; with two, both speak for one device. Either way each sees states that it has not published:
every state carries the `instance`, a random id of one run of an agent.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

QUIET_S = 3600.0  # the same trouble is told again after so long without it
SUSPECT_S = 600.0  # so long after the last sign of another agent a lost session is put down to it
TAKEOVERS = 2  # sessions that the broker says it gave to another, within TAKEOVER_S, are a sign
TAKEOVER_S = 300.0
REMEMBERED = 16  # instances of earlier runs


class Identity:
    """Signs of another agent. Filled by the network's threads, read by the one that publishes."""

    def __init__(self, instance: str, *, monotonic: Callable[[], float] = time.monotonic):
        self.instance, self._monotonic = instance, monotonic
        self._lock = threading.Lock()
        self._earlier: dict[str, int] = {}  # instances that were there before us, and how often they came back
        self._sessions = 0
        self._takeovers: list[float] = []
        self._last_sign, self._told, self._news = float("-inf"), float("-inf"), ""

    def session_began(self) -> None:
        with self._lock:
            self._sessions += 1

    def session_taken_over(self) -> None:
        """The broker says so (MQTT 5)."""
        with self._lock:
            now = self._monotonic()
            self._takeovers = [each for each in self._takeovers if now - each < TAKEOVER_S] + [now]
            if len(self._takeovers) >= TAKEOVERS:
                self._note("The broker gave this agent's session to another client with its client id, repeatedly.")

    def saw(self, payload: bytes, *, retained: bool) -> None:
        """A state on our own topic. Our own and the last words of an earlier run are no sign; all others are."""
        said = _read(payload)
        instance, state = said.get("instance"), said.get("state")
        if not isinstance(instance, str) or instance == self.instance:
            return
        with self._lock:
            if retained and self._sessions <= 1:
                self._remember(instance)  # left behind by a run before this one
                return
            late = instance in self._earlier and (state != "online" or retained)
            if late:  # its will may come once more; whoever lives comes back again
                self._earlier[instance] += 1
                if self._earlier[instance] < 2:
                    return
            boot = said.get("boot")
            self._note(
                f"Another agent speaks for this device and camera (its boot: {boot if isinstance(boot, int) else '?'})."
            )

    @property
    def contested(self) -> bool:
        """Another agent was there a short while ago."""
        return self._monotonic() - self._last_sign < SUSPECT_S

    def take(self) -> str | None:
        """What is new, a sentence; None where nothing is. The same trouble is new again only after a long quiet."""
        with self._lock:
            news, self._news = self._news, ""
        return news or None

    def _note(self, text: str) -> None:
        now = self._monotonic()
        if now - self._last_sign > QUIET_S:
            self._news = (
                f"{text} Verdicts of the two can't be told apart by their ids. Was a device or its file copied? "
                "Give each its own device name and client id."
            )
        self._last_sign = now

    def _remember(self, instance: str) -> None:
        self._earlier.setdefault(instance, 0)
        while len(self._earlier) > REMEMBERED:
            del self._earlier[next(iter(self._earlier))]


def _read(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
