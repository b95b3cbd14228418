"""Which frames belong to which trigger. A state machine: no thread, no clock; the time is passed in, in ns.

A part opens with a trigger, or with a frame of a camera that the line triggers, and takes the place in the sequence
that it keeps. It waits for a frame of each camera, for the window at most, and leaves in the order of the sequence. No
frame is given to two parts, and a part that is refused still takes the frames that its trigger set off, so that they
can't become another part's picture.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

from edge_agent.cameras.frame import Frame
from edge_agent.parts.part import Part, PartReason, Trigger, no_view

# asked: it gives a frame when it is asked to, and the frame says for which part (Frame.asked).
# free: it runs by itself; a part takes the first frame that was taken after its trigger.
# every: the line triggers it, so each frame belongs to a part.
Way = Literal["asked", "free", "every"]

# message: triggers come as messages. frame: a frame of an `every` camera is one. own: the agent makes them (`begin`).
Announced = Literal["message", "frame", "own"]

REMEMBERED = 1000  # trigger ids, and as many part ids, by which duplicates are told
WAITING = 10_000  # parts, refused ones included, that may wait for the line; beyond that triggers get no verdict
NS = 1_000_000  # in a millisecond


class Ask(NamedTuple):
    """A frame that is wanted of an `asked` camera."""

    camera: str
    sequence: int
    until_ns: int | None  # nobody wants it later


@dataclass(eq=False)
class _Open:
    """A part that is in the line."""

    sequence: int
    at: datetime
    ts_mono_ns: int
    until_ns: int | None  # None: it waits for its frames as long as that takes
    wants: set[str]  # cameras that have not given theirs
    trigger: Trigger | None
    announced: bool  # False: a frame alone, which is an orphan if no trigger comes
    opened_by: str | None = None  # the camera whose frame opened it
    views: dict[str, Frame] = field(default_factory=dict)
    reason: PartReason | None = None  # refused at once
    detail: str | None = None

    def expired(self, now_ns: int) -> bool:
        return self.until_ns is not None and now_ns >= self.until_ns

    def settled(self, now_ns: int) -> bool:
        return (self.announced and (self.reason is not None or not self.wants)) or self.expired(now_ns)


class Pairing:
    """Triggers and frames in, parts out. Not for several threads at once.

    ways: the cameras. window_ns: how far a trigger and its frames may lie apart. deadline_ns: from a part's trigger to
    its verdict. room: parts that may wait for the line before further ones are `overrun`.
    """

    def __init__(
        self,
        ways: Mapping[str, Way],
        announced: Announced,
        *,
        window_ns: int,
        deadline_ns: int | None = None,
        room: int = 8,
        remembered: int = REMEMBERED,
        waiting: int = WAITING,
    ):
        self._ways, self._announced = dict(ways), announced
        self._window_ns, self._deadline_ns, self._room, self._limit = window_ns, deadline_ns, room, waiting
        self._line: deque[_Open] = deque()  # in the order of the sequence; those that have not left
        self._wanting: dict[str, deque[_Open]] = {camera: deque() for camera in ways}  # refused ones that left, too
        self._unclaimed: deque[_Open] = deque()
        self._asks: list[Ask] = []
        self._triggers, self._parts = _Memory(remembered), _Memory(remembered)
        self._held = 0  # parts in the line that are not refused
        self._ended: set[str] = set()
        self._closed = False
        self.opened = 0  # parts so far, hence the next one's sequence
        self.redelivered = 0  # triggers that the broker sent again
        self.unheard = 0  # frames of `every` cameras that get no verdict, because too many parts wait

    def trigger(self, trigger: Trigger, now_ns: int, *, redelivered: bool = False, too_late: str | None = None) -> bool:
        """A message has announced a part. False: it gets no verdict, because the line has ended or is flooded.

        redelivered: the broker says that it may have sent it before. too_late: it was on its way for too long to say
        which part it announced, a sentence.
        """
        known = self._triggers.get(trigger.trigger_id)
        if known is not None and redelivered:
            self.redelivered += 1
            return True
        if self._closed or self._flooded:
            return False
        reason: PartReason | None = None
        detail, sets_off = None, True
        if known is not None:
            reason, sets_off = "duplicate", False
            detail = f"The trigger {trigger.trigger_id} came before, as part {known} of the sequence."
        elif too_late is not None:
            reason, detail, sets_off = "late", too_late, False
        elif (earlier := self._parts.get(trigger.part)) is not None:
            reason = "duplicate"
            detail = f"The part {trigger.part} came before, as number {earlier} of the sequence."
        part = self._claim(trigger, now_ns) if sets_off else None
        if part is None:
            part = self._open(trigger.at, trigger.ts_mono_ns, now_ns, trigger, reason, detail, sets_off=sets_off)
        elif reason is not None:
            self._refuse(part, reason, detail)
        if part.reason is None:
            self._parts.note(trigger.part, part.sequence)
        if known is None:
            self._triggers.note(trigger.trigger_id, part.sequence)
        return True

    def begin(self, at: datetime, now_ns: int) -> None:
        """The agent announces a part itself (`own` only)."""
        if self._announced != "own":
            raise ValueError(f"The parts of this line are announced by a {self._announced}, not by the agent.")
        if not self._closed:
            self._open(at, now_ns, now_ns, None, None, None)

    def frame(self, camera: str, frame: Frame, now_ns: int) -> None:
        """A camera has given a frame, or says why it gives none."""
        way = self._ways[camera]
        part = self._wanted_by(camera, frame, now_ns)
        if part is None and way == "every" and frame.reason != "stalled" and not self._closed:
            if self._flooded:
                self.unheard += 1
                return
            part = self._open(frame.captured_at, frame.ts_mono_ns, now_ns, None, None, None)
            part.opened_by = camera
        if part is not None and camera in part.wants:
            part.wants.discard(camera)
            if part.reason is None:
                part.views[camera] = frame

    def end(self, camera: str) -> None:
        """A recording has ended, and the line with it: no part opens any more."""
        self._ended.add(camera)
        self._closed = True
        for part in self._line:
            part.wants.discard(camera)

    def close(self) -> None:
        """The line is told to stop: nothing waits any longer."""
        self._closed = True
        for part in self._line:
            part.until_ns = 0

    def take(self, now_ns: int) -> Part | None:
        """The next part in the sequence, where it is settled."""
        while self._line and self._line[0].settled(now_ns):
            part = self._line.popleft()
            self._held -= part.reason is None
            if self._announced == "own" and self._closed and not part.views:
                self.opened -= 1  # nothing was there: the recordings have ended
                continue
            part.announced = True  # nobody claims it any more
            settled = self._settle(part, now_ns)
            if part.reason is None:
                part.wants.clear()
                part.views = {}
            return settled
        return None

    def asks(self) -> list[Ask]:
        """The frames to ask for since the last call."""
        asks, self._asks = self._asks, []
        return asks

    def next_due(self) -> int | None:
        """When `take` may have something that it has not now; None: when something comes."""
        return self._line[0].until_ns if self._line else None

    @property
    def waiting(self) -> int:
        """Parts that have not left."""
        return len(self._line)

    @property
    def over(self) -> bool:
        return self._closed and not self._line

    def _open(
        self,
        at: datetime,
        ts_mono_ns: int,
        now_ns: int,
        trigger: Trigger | None,
        reason: PartReason | None,
        detail: str | None,
        *,
        sets_off: bool = True,
    ) -> _Open:
        if reason is None and self._held >= self._room:
            reason = "overrun"
            detail = f"{self._room} parts were waiting for the line already."
        wants = set(self._ways) - self._ended if sets_off else set()
        if reason is not None:
            wants = {camera for camera in wants if self._ways[camera] == "every"}  # the others give nothing unasked
        announced = trigger is not None or self._announced != "message"
        until_ns = None if self._announced == "own" else now_ns + self._window_ns
        part = _Open(
            self.opened, at, ts_mono_ns, until_ns, wants, trigger, announced, reason=reason, detail=detail
        )  # fmt: skip
        self.opened += 1
        self._line.append(part)
        self._held += reason is None
        if not announced:
            self._drop_expired(self._unclaimed, now_ns)
            self._unclaimed.append(part)
        for camera in sorted(wants):
            self._drop_expired(self._wanting[camera], now_ns)
            self._wanting[camera].append(part)
            if self._ways[camera] == "asked":
                self._asks.append(Ask(camera, part.sequence, until_ns))
        return part

    def _refuse(self, part: _Open, reason: PartReason, detail: str | None) -> None:
        """A part that was taken for one to be judged."""
        if part.reason is None:
            self._held -= 1
            part.reason, part.detail = reason, detail
            part.views.clear()

    def _claim(self, trigger: Trigger, now_ns: int) -> _Open | None:
        """The oldest part whose frames came before their trigger."""
        self._drop_expired(self._unclaimed, now_ns)
        if not self._unclaimed:
            return None
        part = self._unclaimed.popleft()
        part.trigger, part.announced = trigger, True
        return part

    def _wanted_by(self, camera: str, frame: Frame, now_ns: int) -> _Open | None:
        """The oldest part that waits for this camera, where the frame may be its own."""
        wanting = self._wanting[camera]
        self._drop_expired(wanting, now_ns)
        while wanting and camera not in wanting[0].wants:
            wanting.popleft()
        if self._ways[camera] == "asked" and frame.asked is not None:
            return next((part for part in wanting if part.sequence == frame.asked), None)
        if not wanting or (self._ways[camera] == "free" and frame.ts_mono_ns < wanting[0].ts_mono_ns):
            return None
        return wanting[0]

    @property
    def _flooded(self) -> bool:
        return len(self._line) >= self._limit

    @staticmethod
    def _drop_expired(parts: "deque[_Open]", now_ns: int) -> None:
        while parts and parts[0].expired(now_ns):
            parts.popleft()

    def _settle(self, part: _Open, now_ns: int) -> Part:
        due_ns = None if self._deadline_ns is None else part.ts_mono_ns + self._deadline_ns
        settled = Part(
            part.sequence, part.at, part.ts_mono_ns, {}, part.trigger, reason=part.reason, detail=part.detail,
            due_ns=due_ns,
        )  # fmt: skip
        if self._announced == "message" and part.trigger is None:
            text = f"A frame of {part.opened_by}, and no trigger within {self._window}."
            return replace(settled, reason="orphan", detail=text)
        if part.reason is not None:
            return settled
        if not part.views:
            return replace(settled, reason="no_frame", detail=f"{self._missing(list(self._ways))}.")
        views = {
            camera: part.views.get(camera) or no_view(camera, f"{self._missing([camera])}.", now_ns)
            for camera in self._ways
        }
        return replace(settled, views=views)

    def _missing(self, cameras: list[str]) -> str:
        if ended := [camera for camera in cameras if camera in self._ended]:
            return f"The recording of {', '.join(ended)} has ended"
        if self._closed:
            return f"No frame of {', '.join(cameras)} before the agent was stopped"
        return f"No frame of {', '.join(cameras)} within {self._window}"

    @property
    def _window(self) -> str:
        return f"{self._window_ns / NS:g} ms"


class _Memory:
    """The newest ids, each with the number of its part."""

    def __init__(self, limit: int):
        self._limit = limit
        self._known: OrderedDict[str, int] = OrderedDict()

    def get(self, name: str | None) -> int | None:
        return None if name is None else self._known.get(name)

    def note(self, name: str | None, sequence: int) -> None:
        if name is not None:
            self._known[name] = sequence
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
