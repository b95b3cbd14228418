"""A camera that runs by itself: read in a thread of its own, watched, reconnected for ever.

The source (opencv.py, gstreamer.py, aravis.py) is one connection; it reads and knows nothing of this.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np

from edge_agent import clock
from edge_agent.cameras.asks import Ask, Asks
from edge_agent.cameras.checks import FrameChecks
from edge_agent.cameras.frame import CameraError, CameraReason, Frame
from edge_agent.cameras.settings import LiveCameraConfig

log = logging.getLogger(__name__)

JITTER = random.Random()  # a generator of its own: nobody else draws from it, or seeds it

# newest: free running; who is slower than the camera gets its newest frame, the others are dropped and counted.
# every: a line's sensor triggers, so each frame is a part; one that finds no room is `unknown`, reason overrun.
# asked: the agent triggers, and not before there is room for the answer; by itself, or when `ask` says so.
Mode = Literal["newest", "every", "asked"]

QUEUED_SHOTS = 4  # pictures of triggered parts that may wait for the line
POLL_S = 0.25  # how long a source is asked to wait for one frame: after close() the reader ends about as soon
FAREWELL_S = 5.0  # for the reader to let go of the camera; a driver that hangs longer is left behind


@dataclass(frozen=True, eq=False)
class Shot:
    """What a source read: exactly one of `image`, `error` and `late` is set."""

    image: np.ndarray | None = None  # uint8 [h, w, 3] RGB, of nobody else
    error: str | None = None  # a sentence
    reason: CameraReason | None = None  # of the error
    late: bool = False  # it waited on its way for so long that it no longer shows what is there (free running only)


class Source(Protocol):
    """One connection to a camera, used by one thread. CameraError where it has ended."""

    def read(self, timeout_s: float) -> Shot | None:
        """The next frame, each once and in order; None where none has come in time."""
        ...

    def trigger(self) -> None:
        """Ask for one frame (`asked` only)."""
        ...

    def close(self) -> None: ...


@dataclass
class Counts:
    """Since the camera was opened."""

    frames: int = 0  # that the camera gave
    dropped: int = 0  # of a free-running camera: another one came before the line had room
    late: int = 0  # of a free-running camera: too old when they came, so not used
    repeated: int = 0  # the same picture again: not judged a second time
    reconnects: int = 0


@dataclass(frozen=True)
class Outage:
    """A camera is gone, or back."""

    lost: bool
    text: str  # a sentence
    gone_ms: int  # without a frame for so long
    number: int  # of this outage


@dataclass(frozen=True, eq=False)
class _Taken:
    number: int
    captured_at: datetime
    ts_mono_ns: int
    shot: Shot
    asked: int | None = None


class LiveCamera:
    """Frames of a source that `connect` opens, and opens again whenever it breaks down.

    Where no frame has come for `stall_s` (after the start: `open_timeout_s`), a Frame says so, reason stalled, and
    again each `stall_s` as long as it lasts. That holds for a source that hangs, too: it is read in its own thread. A
    camera that waits for its triggers is silent by right; it is stalled when its connection is gone.

    on_outage: called from the camera's threads, and must return at once, when an outage begins and when it is over.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Source],
        settings: LiveCameraConfig,
        *,
        mode: Mode = "newest",
        interval_s: float = 0.0,
        size: tuple[int, int] | None = None,
        on_outage: Callable[[Outage], None] = lambda outage: None,
    ):
        self.name, self.on_outage = name, on_outage
        self.counts = Counts()
        self._connect, self._settings, self._mode, self._interval_s = connect, settings, mode, interval_s
        self._checks = FrameChecks(settings.checks, size)
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._waiting: deque[_Taken] = deque()
        self._heard = time.monotonic()
        self._due: float | None = None  # a frame must have come until then; None: silence is right
        self._trouble: str | None = None  # why there is no connection
        self._asks: Asks | None = None  # None: it is asked whenever there is room
        self._outages, self._told_lost = 0, False

    @property
    def mode(self) -> Mode:
        return self._mode

    def wait_to_be_asked(self) -> None:
        """From now on a frame is taken when `ask` says so (`asked` only; before `frames`)."""
        self._asks = Asks()

    def ask(self, number: int, until_ns: int | None) -> None:
        """Take a frame, which will carry the number; not after `until_ns` of the monotonic clock. Returns at once."""
        if self._asks is not None:
            self._asks.put(Ask(number, until_ns))

    def frames(self) -> Iterator[Frame]:
        self._heard = time.monotonic()
        self._due = self._heard + self._settings.open_timeout_s
        reader = threading.Thread(target=self._read_for_ever, name=f"camera {self.name}", daemon=True)
        reader.start()
        try:
            while not self._closed.is_set():
                taken = self._take()
                frame = self._stalled() if taken is None else self._judge(taken)
                if frame is not None and not self._closed.is_set():
                    yield frame
        finally:
            self.close()
            reader.join(FAREWELL_S)
            text = "%s gave %d frames; dropped %d, late %d, repeated %d, reconnected %d times."
            counts = self.counts
            numbers = counts.frames, counts.dropped, counts.late, counts.repeated, counts.reconnects
            log.info(text, self.name, *numbers)

    def close(self) -> None:
        self._closed.set()
        if self._asks is not None:
            self._asks.close()
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> _Taken | None:
        """The next one; None when it is overdue, or the camera is closed."""
        with self._changed:
            while not self._closed.is_set():
                if self._waiting:
                    taken = self._waiting.popleft()
                    self._changed.notify_all()
                    return taken
                now = time.monotonic()
                if self._due is not None and now >= self._due:
                    self._due = now + self._settings.stall_s
                    return None
                self._changed.wait(None if self._due is None else self._due - now)
        return None

    def _stalled(self) -> Frame:
        with self._changed:
            silence_s, why = time.monotonic() - self._heard, self._trouble
        text = f"{self.name} has given no frame for {silence_s:.1f} s. {why or 'It is connected and silent.'}"
        self._tell(lost=True, text=text, gone_s=silence_s)
        return Frame(
            f"stalled-{self.counts.frames}", clock.utc(), time.monotonic_ns(), error=text,
            reason="stalled",
        )  # fmt: skip

    def _judge(self, taken: _Taken) -> Frame | None:
        """The frame, with what is wrong with it; None for a free-running camera's same picture again."""
        shot, about = taken.shot, (str(taken.number), taken.captured_at, taken.ts_mono_ns)
        asked = taken.asked
        if shot.image is None:
            return Frame(*about, error=shot.error, reason=shot.reason, asked=asked)
        if trouble := self._checks.look(shot.image):
            text = f"Frame {taken.number} of {self.name} {trouble.text}."
            return Frame(*about, error=text, reason=trouble.reason, asked=asked)
        limit = self._settings.checks.frozen_frames
        if limit is not None and (repeats := self._checks.repeats(shot.image)):
            self.counts.repeated += 1
            if self._mode == "newest" and (repeats + 1) % limit:
                return None
            text = f"{self.name} is frozen: the same picture {repeats + 1} times in a row."
            return Frame(*about, error=text, reason="frozen", asked=asked)
        return Frame(*about, image=shot.image, asked=asked)

    def _read_for_ever(self) -> None:
        """The reader: connect, read until it breaks, wait, connect again."""
        settings, connected_before = self._settings, False
        wait_s = settings.reconnect_min_s
        while not self._closed.is_set():
            frames_before, began = self.counts.frames, time.monotonic()
            try:
                source = self._connect()
            except Exception as error:
                self._lost(error)
            else:
                self.counts.reconnects += connected_before
                connected_before = True
                self._use(source)
            if self.counts.frames > frames_before and time.monotonic() - began > wait_s:
                wait_s = settings.reconnect_min_s  # one that comes and goes in a moment is not back
            self._closed.wait(JITTER.uniform(0.5, 1.0) * wait_s)
            wait_s = min(2 * wait_s, settings.reconnect_max_s)

    def _use(self, source: Source) -> None:
        try:
            self._read_on(source)
        except Exception as error:
            self._lost(error)  # first: a camera that is gone may take long to be closed
        try:
            source.close()
        except Exception:
            log.debug("%s", self.name, exc_info=True)

    def _read_on(self, source: Source) -> None:
        if self._mode != "newest":
            self._connected()
        quiet_since = next_trigger = time.monotonic()
        patience_s = self._settings.open_timeout_s  # a stream may take long to its first frame
        while not self._closed.is_set():
            if self._mode == "asked":
                if not self._room(next_trigger) or (asked := self._next_ask()) is None:
                    return
                next_trigger = time.monotonic() + self._interval_s
                source.trigger()
                shot = source.read(self._settings.stall_s)
                if shot is None:
                    text = f"{self.name} gave no frame within {self._settings.stall_s:g} s of its trigger."
                    self._put(Shot(error=text, reason="no_frame"), asked.number)
                    raise CameraError(text)
                self._put(shot, asked.number)
                continue
            shot = source.read(POLL_S)
            if shot is not None and shot.late:
                self.counts.late += 1
            elif shot is not None:
                self._put(shot)
                quiet_since, patience_s = time.monotonic(), self._settings.stall_s
            elif self._mode == "newest" and time.monotonic() - quiet_since > patience_s:
                raise CameraError(f"{self.name} is connected, but gave no frame for {patience_s:g} s.")

    def _room(self, not_before: float) -> bool:
        """Wait until the last answer was taken and the next trigger is due. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._closed.is_set())
        return not self._closed.wait(max(0.0, not_before - time.monotonic()))

    def _next_ask(self) -> Ask | None:
        """What the next frame is for. None: closed."""
        return Ask(0, None) if self._asks is None else self._asks.next()

    def _put(self, shot: Shot, asked: int | None = None) -> None:
        now, mono_ns = clock.utc(), time.monotonic_ns()
        with self._changed:
            if self._mode == "newest" and self._waiting:
                self.counts.dropped += 1
                self._waiting.clear()
            elif self._mode == "every" and sum(each.shot.image is not None for each in self._waiting) >= QUEUED_SHOTS:
                text = f"Frame {self.counts.frames} of {self.name} came before the line had room for it."
                shot = Shot(error=text, reason="overrun")
            number = None if self._asks is None else asked
            self._waiting.append(_Taken(self.counts.frames, now, mono_ns, shot, number))
            self.counts.frames += 1
        self._connected(heard=True)

    def _connected(self, *, heard: bool = False) -> None:
        with self._changed:
            lost, silence_s = self._trouble, time.monotonic() - self._heard
            self._trouble = None
            self._heard = time.monotonic()
            self._due = self._heard + self._settings.stall_s if self._mode == "newest" else None
            self._changed.notify_all()
        if lost is not None:
            log.info("%s is back after %.1f s.", self.name, silence_s)
        self._tell(lost=False, text=f"{self.name} is back after {silence_s:.1f} s.", gone_s=silence_s)

    def _lost(self, error: Exception) -> None:
        known = isinstance(error, CameraError)
        if not known:
            log.debug("%s", self.name, exc_info=error)
        why = str(error) if known else f"{type(error).__name__}: {error}."
        with self._changed:
            first, self._trouble = self._trouble is None, why
            silence_s = time.monotonic() - self._heard
            if self._due is None:
                self._due = time.monotonic() + self._settings.stall_s
            self._changed.notify_all()
        if first and not self._closed.is_set():
            log.warning("%s It is tried again for ever; without it parts are unknown.", why)
        self._tell(lost=True, text=f"{why} It is tried again for ever; without it parts are unknown.", gone_s=silence_s)

    def _tell(self, *, lost: bool, text: str, gone_s: float) -> None:
        """What is new, once."""
        with self._changed:
            if self._told_lost == lost or self._closed.is_set():
                return
            self._told_lost = lost
            self._outages += lost
            outage = Outage(lost, text, round(1000 * gone_s), self._outages)
        self.on_outage(outage)
