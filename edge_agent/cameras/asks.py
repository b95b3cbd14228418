"""Requests for frames, from the threads that want them to the one that takes them."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

from edge_agent.cameras.frame import Camera, Frame


class Ask(NamedTuple):
    """A frame is wanted; it will carry the number."""

    number: int
    until_ns: int | None  # of the monotonic clock: nobody wants it later


class Asks:
    """A queue of them that passes over what nobody wants any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Ask] = deque()
        self._closed = False

    def put(self, ask: Ask) -> None:
        with self._changed:
            self._waiting.append(ask)
            self._changed.notify_all()

    def next(self) -> Ask | None:
        """Waits for one. None: closed."""
        with self._changed:
            while not self._closed:
                while self._waiting:
                    ask = self._waiting.popleft()
                    if ask.until_ns is None or time.monotonic_ns() < ask.until_ns:
                        return ask
                self._changed.wait()
        return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Askable(Camera, Protocol):
    """A camera that gives a frame when it is asked to, with the number of the request."""

    def ask(self, number: int, until_ns: int | None) -> None:
        """Returns at once; nothing comes after `until_ns` of the monotonic clock. Before `frames` too."""
        ...


class AskedRecording:
    """A recording that gives its next picture when it is asked to."""

    def __init__(self, recording: Camera):
        self.name, self._recording, self._asks = recording.name, recording, Asks()

    def ask(self, number: int, until_ns: int | None) -> None:
        self._asks.put(Ask(number, until_ns))

    def frames(self) -> Iterator[Frame]:
        pictures = iter(self._recording.frames())
        while (ask := self._asks.next()) is not None:
            picture = next(pictures, None)
            if picture is None:
                return
            yield replace(picture, asked=ask.number)

    def close(self) -> None:
        self._asks.close()
        self._recording.close()
