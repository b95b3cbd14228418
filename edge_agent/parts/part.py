"""A part on its way to its verdict, and the trigger that announced it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from edge_agent import clock
from edge_agent.cameras.frame import Frame

# Why a part is `unknown` before anybody looked at a picture; docs/parts.md says what each means.
PartReason = Literal[
    "no_frame",  # a trigger, and no camera gave a frame in time
    "missing_view",  # some of the cameras gave none
    "orphan",  # a frame of a triggered camera, and no trigger in time
    "duplicate",  # the trigger, or the part that it names, came before
    "overrun",  # more parts than the line takes
    "late",  # the verdict came, or would come, after the part's deadline; or the trigger was on its way for too long
    "product",  # no bundle judges the product that the trigger names
]


@dataclass(frozen=True)
class Trigger:
    """What announces a part: a message, or the agent itself (then without an id)."""

    trigger_id: str | None
    at: datetime  # UTC, when it came
    ts_mono_ns: int  # the same instant on the monotonic clock
    part: str | None = None  # the part's id, where the sender knows it
    product: str | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """One part: a place in the sequence, and a frame of each camera. Without `reason` it is to be judged."""

    sequence: int
    at: datetime  # UTC: when it was triggered; without a trigger, when its first frame was taken
    ts_mono_ns: int  # the same instant on the monotonic clock
    views: Mapping[str, Frame]  # camera -> frame, of every camera; one that gave none has a Frame that says so
    trigger: Trigger | None = None
    id: str | None = None  # None: nothing named it
    reason: PartReason | None = None  # of a part that nobody needs to look at
    detail: str | None = None  # a sentence
    due_ns: int | None = None  # the monotonic deadline of its verdict

    @property
    def product(self) -> str | None:
        return None if self.trigger is None else self.trigger.product

    def named(self, part_id: str | None) -> "Part":
        return replace(self, id=part_id)


def no_view(camera: str, detail: str, now_ns: int) -> Frame:
    """Stands for the frame that a camera did not give."""
    return Frame(camera, clock.utc(), now_ns, error=detail, reason="no_frame")
