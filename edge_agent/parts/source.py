"""Where parts come from: one camera whose frames are the parts, or several cameras and triggers, paired."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from edge_agent import clock
from edge_agent.cameras.asks import Askable, AskedRecording
from edge_agent.cameras.frame import Camera
from edge_agent.cameras.live import FAREWELL_S, LiveCamera
from edge_agent.parts.pairing import NS, Announced, Pairing, Way
from edge_agent.parts.part import Part, Trigger
from edge_agent.parts.settings import PartId, PartsConfig

WAYS: dict[str, Way] = {"newest": "free", "every": "every", "asked": "asked"}  # of a live camera's mode


@dataclass(frozen=True)
class PartCounts:
    """Since the start."""

    opened: int = 0  # parts, each of which has a verdict or will get one
    redelivered: int = 0  # triggers that the broker sent again
    dropped: int = 0  # this and the next three: frames of all cameras, as live.Counts has them
    late: int = 0
    repeated: int = 0
    reconnects: int = 0


class PartSource(Protocol):
    """One thread iterates `parts`; `close` may come from another and ends the iteration."""

    name: str  # of the cameras, for people
    cameras: tuple[str, ...]  # as the configuration calls them

    def parts(self) -> Iterator[Part]:
        """In the order of their sequence, from 0, without a gap. CameraError where a camera breaks down."""
        ...

    def close(self) -> None: ...

    @property
    def counts(self) -> PartCounts: ...


class FrameParts:
    """Each frame of the one camera is a part."""

    def __init__(self, name: str, camera: Camera, *, named_by: PartId = "camera", deadline_ms: float | None = None):
        self.name, self._camera, self._named_by = camera.name, camera, named_by
        self.cameras: tuple[str, ...] = (name,)
        self._deadline_ns = None if deadline_ms is None else _in_ns(deadline_ms)
        self._opened = 0

    def parts(self) -> Iterator[Part]:
        for sequence, frame in enumerate(self._camera.frames()):
            self._opened = sequence + 1
            due_ns = None if self._deadline_ns is None else frame.ts_mono_ns + self._deadline_ns
            part = Part(sequence, frame.captured_at, frame.ts_mono_ns, {self.cameras[0]: frame}, due_ns=due_ns)
            yield part.named(part_id(part, self._named_by))

    def close(self) -> None:
        self._camera.close()

    @property
    def counts(self) -> PartCounts:
        return count(self._opened, [self._camera])


class PairedParts:
    """Frames of several cameras, or frames and triggers, by the state machine `Pairing`; a thread for each camera."""

    def __init__(self, cameras: Mapping[str, Camera], settings: PartsConfig):
        self.name, self.cameras = ", ".join(camera.name for camera in cameras.values()), tuple(cameras)
        self._named_by = settings.named_by
        self._opened_cameras = list(cameras.values())
        self._asked = {name: _when_asked(camera) for name, camera in cameras.items()}
        ways = {name: way_of(camera) for name, camera in cameras.items()}
        announced: Announced = "message" if settings.trigger == "mqtt" else "own"
        if announced == "own" and "every" in ways.values():
            announced = "frame"
        self._own = announced == "own"
        self._changed = threading.Condition()
        self._pairing = Pairing(
            ways,
            announced,
            window_ns=_in_ns(settings.window_ms),
            deadline_ns=None if settings.deadline_ms is None else _in_ns(settings.deadline_ms),
            room=settings.queue,
        )
        self._failure: Exception | None = None

    def trigger(self, trigger: Trigger, *, redelivered: bool, too_late: str | None) -> bool:
        """From any thread; returns at once. False: it gets no verdict, because the line has ended or is flooded."""
        with self._changed:
            taken = self._pairing.trigger(trigger, time.monotonic_ns(), redelivered=redelivered, too_late=too_late)
            self._hand_on()
        return taken

    def parts(self) -> Iterator[Part]:
        threads = [
            threading.Thread(target=self._read, args=each, name=f"camera {each[0]}", daemon=True)
            for each in self._asked.items()
        ]
        for thread in threads:
            thread.start()
        try:
            while (part := self._next()) is not None:
                yield part.named(part_id(part, self._named_by))
            if self._failure is not None:
                raise self._failure
        finally:
            self.close()
            for thread in threads:
                thread.join(FAREWELL_S)

    def close(self) -> None:
        with self._changed:
            self._pairing.close()
            self._changed.notify_all()
        for camera in self._asked.values():
            camera.close()

    @property
    def counts(self) -> PartCounts:
        pairing = self._pairing
        return count(pairing.opened, self._opened_cameras, pairing.redelivered, pairing.unheard)

    def _next(self) -> Part | None:
        with self._changed:
            while True:
                if self._own and not self._pairing.waiting:
                    self._pairing.begin(clock.utc(), time.monotonic_ns())
                    self._hand_on()
                now_ns = time.monotonic_ns()
                if (part := self._pairing.take(now_ns)) is not None:
                    return part
                if self._pairing.over:
                    return None
                due_ns = self._pairing.next_due()
                self._changed.wait(None if due_ns is None else max(0, due_ns - now_ns) / 1e9)

    def _read(self, name: str, camera: Camera) -> None:
        """A camera's thread."""
        try:
            for frame in camera.frames():
                with self._changed:
                    self._pairing.frame(name, frame, time.monotonic_ns())
                    self._hand_on()
        except Exception as error:
            self._failure = self._failure or error
        finally:
            with self._changed:
                self._pairing.end(name)
                self._changed.notify_all()

    def _hand_on(self) -> None:
        """With the lock held: ask the cameras, and let `parts` look."""
        for ask in self._pairing.asks():
            cast(Askable, self._asked[ask.camera]).ask(ask.sequence, ask.until_ns)
        self._changed.notify_all()


def make_source(cameras: Mapping[str, Camera], settings: PartsConfig) -> FrameParts | PairedParts:
    """The parts of these cameras, by their names, as the configuration wants them."""
    if len(cameras) == 1 and settings.trigger == "frame":
        ((name, camera),) = cameras.items()
        return FrameParts(name, camera, named_by=settings.named_by, deadline_ms=settings.deadline_ms)
    return PairedParts(cameras, settings)


def way_of(camera: Camera) -> Way:
    """How its frames come to parts; a recording gives its next picture when it is asked to."""
    return WAYS[camera.mode] if isinstance(camera, LiveCamera) else "asked"


def part_id(part: Part, named_by: PartId) -> str | None:
    """What names the part; a code is read later."""
    if named_by == "trigger":
        return None if part.trigger is None else part.trigger.part
    if named_by == "counter":
        return str(part.sequence)
    if named_by == "camera":
        frames = sorted(part.views.values(), key=lambda frame: frame.image is None)  # stable: the first with a picture
        return frames[0].name if frames else None
    return None


def count(opened: int, cameras: Sequence[Camera], redelivered: int = 0, unheard: int = 0) -> PartCounts:
    """With the sums of what the live ones among the cameras have counted."""
    live = [camera.counts for camera in cameras if isinstance(camera, LiveCamera)]
    dropped, late, repeated, reconnects = (
        sum(getattr(each, name) for each in live) for name in ("dropped", "late", "repeated", "reconnects")
    )
    return PartCounts(opened, redelivered, dropped + unheard, late, repeated, reconnects)


def _when_asked(camera: Camera) -> Camera:
    if not isinstance(camera, LiveCamera):
        return AskedRecording(camera)
    if camera.mode == "asked":
        camera.wait_to_be_asked()
    return camera


def _in_ns(ms: float) -> int:
    return round(ms * NS)
