"""Which engine serves, and what happened to it: what the keeper says of itself."""

from dataclasses import dataclass, replace
from typing import Literal

from edge_agent.engines.choose import Proved, Refused

IncidentKind = Literal["engine_failed", "engine_refused"]


@dataclass(frozen=True)
class Building:
    """A build going on beside the line."""

    name: str
    stage: str
    percent: int  # a multiple of 10


@dataclass(frozen=True)
class Status:
    """Which engine serves, and why; what is published."""

    condition: Literal["serving", "restarting"]
    name: str
    precision: str
    latency_ms: float  # median of one image, measured here when it was proved
    asked: str  # the configured kind
    chosen: str  # why this one, a sentence
    fallback: bool = False  # it is not what was asked for
    restarts: int = 0
    refused: tuple[Refused, ...] = ()
    building: Building | None = None


@dataclass(frozen=True)
class Incident:
    """Something a person should know: parts may be unknown (`engine_failed`), or a new engine was not taken."""

    kind: IncidentKind
    text: str


def with_engine(status: Status, proved: Proved, refused: tuple[Refused, ...] | None = None) -> Status:
    engine = proved.engine
    return replace(
        status,
        name=engine.name,
        precision=engine.precision,
        latency_ms=proved.latency_ms,
        refused=status.refused if refused is None else refused,
    )
