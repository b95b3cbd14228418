"""Tells systemd that the agent is ready, alive, or stopping (sd_notify). Without systemd nothing happens.

watchdog = Watchdog()              once, at the start
watchdog.ready()                   when frames can be judged
watchdog.alive()                   whenever the line was seen to move, more often than `interval_s`
watchdog.stopping()                at the end
"""

import os
import socket
from collections.abc import Mapping


class Watchdog:
    """interval_s: how often `alive` is due, half of the unit's WatchdogSec; None where systemd doesn't watch."""

    def __init__(self, environment: Mapping[str, str] = os.environ):
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path  # @: a socket in the abstract namespace
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        due = self._address and for_us and microseconds.isdigit() and int(microseconds) > 0
        self.interval_s = int(microseconds) / 2e6 if due else None

    def ready(self, status: str = "") -> None:
        self._tell("READY=1", status)

    def alive(self, status: str = "") -> None:
        self._tell("WATCHDOG=1", status)

    def stopping(self) -> None:
        self._tell("STOPPING=1", "")

    def _tell(self, state: str, status: str) -> None:
        if not self._address:
            return
        text = state + (f"\nSTATUS={status.splitlines()[0]}" if status.strip() else "")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(0.5)
                sender.sendto(text.encode(), self._address)
        except OSError:  # a supervisor that can't be told must not stop the line; it will restart us if it has to
            return
