"""Where commands arrive, are refused or carried out, and answered. One thread, the one that owns the outbox.

Nothing is half done after a power cut: `accepted`, the command's id and its effect are one transaction; the last ack
and the audit event are another, which the next start catches up with. Verdicts under older orders come before the ack
that says the new ones hold.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from edge_agent import clock
from edge_agent.commands.audit import AuditLog
from edge_agent.commands.effect import Effect, Finished, ended
from edge_agent.commands.jobs import Jobs
from edge_agent.commands.limits import Rate
from edge_agent.commands.memory import Kept, Memory, Remembered, Standing
from edge_agent.commands.model_orders import ModelOrders, Workshop
from edge_agent.commands.orders import Orders
from edge_agent.commands.requests import (
    Command,
    Parsed,
    Refusal,
    ReloadModel,
    Rollback,
    SelfTest,
    SetRoi,
    Snapshot,
    parse,
)
from edge_agent.commands.roi import RoiOrders
from edge_agent.config import CommandsConfig
from edge_agent.connection import RECEIVED_BYTES, Received
from edge_agent.control import Control
from edge_agent.messages import Ack, Commanded, EngineInService, Event, Origin, Result, encode
from edge_agent.models.judge import Judges
from edge_agent.outbox import Message
from edge_agent.publisher import Publisher

log = logging.getLogger(__name__)

ANSWERS_PER_MINUTE = 60  # refusals and repetitions; more are counted only, or a flood would fill the outbox
CORRELATION_BYTES = 256


class Inbox(Protocol):
    """What the desk needs of a connection."""

    dropped: int

    def take(self) -> list[Received]: ...


class _Order(NamedTuple):
    number: int  # of Control
    command_id: str


class CommandDesk:
    """Remote commands of one run.

    judges: whom the commands are about; crops that an earlier run was told hold from now on. workshop: what a change of
    model needs. standing: the orders that `control` began with. engine: what serves now. wake: called from other
    threads when there is something to attend to.
    """

    def __init__(
        self,
        config: CommandsConfig,
        inbox: Inbox,
        publisher: Publisher,
        origin: Origin,
        control: Control,
        judges: Judges,
        standing: Standing,
        workshop: Workshop,
        *,
        engine: Callable[[], EngineInService | None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        utc: Callable[[], datetime] = clock.utc,
        time_sync: Callable[[], str] = clock.time_sync,
    ):
        self._config, self._inbox, self._publisher, self._origin = config, inbox, publisher, origin
        self._control, self._judges, self._wake = control, judges, wake
        self._monotonic, self._utc, self._time_sync = monotonic, utc, time_sync
        kept = publisher.outbox.recall()
        self._memory = Memory(kept)
        self._rate, self._answers = Rate(config.per_minute, monotonic), Rate(ANSWERS_PER_MINUTE, monotonic)
        self._audit = AuditLog(config.audit_file)
        self._pending: list[_Order] = []
        self._finished: SimpleQueue[Finished] = SimpleQueue()
        self._ways: dict[str, tuple[str | None, bytes | None]] = {}  # of open commands: where else to answer (MQTT 5)
        self._flooded = False
        self._refused = 0
        self._orders = Orders(config, control, standing, monotonic)
        self._rois = RoiOrders(config, judges, control, kept)
        self._jobs = Jobs(control, judges, origin, self._finish_later, engine=engine, monotonic=monotonic)
        self._models = ModelOrders(
            workshop, judges, self._orders, self._rois, origin, self._finish, self._store, wake=wake,
            monotonic=monotonic,
        )  # fmt: skip
        publisher.store([], keep={**standing.kept(), **self._rois.kept()})
        self._finish_open()

    @property
    def refused(self) -> int:
        """Commands without effect since the start."""
        return self._refused + self._inbox.dropped

    def settled(self) -> tuple[str, ...]:
        """Commands whose orders hold for every verdict that comes from now on."""
        ready = tuple(order.command_id for order in self._pending if self._control.settled(order.number))
        self._pending = [order for order in self._pending if order.command_id not in ready]
        return ready

    def note(self, result: Result) -> None:
        """A verdict that is durable."""
        self._models.note(result)

    def attend(self, settled: Sequence[str]) -> bool:
        """Answer what is done, look at what has come. True where the orders have changed: the state is to be told.

        settled: what `settled` gave before the verdicts were taken that are stored by now.
        """
        before = self._in_force()
        for command_id in settled:
            self._settle(command_id)
        self._jobs.attend()
        self._finish_jobs()
        self._models.attend()
        for received in self._inbox.take():
            self._receive(received)
        return self._in_force() != before

    def close(self) -> None:
        """The line has ended: what is still open is answered now."""
        for order in self._pending:
            self._settle(order.command_id)
        self._pending = []
        self._jobs.close()
        self._models.close()
        self._finish_jobs()
        self._finish_open()

    def _in_force(self) -> tuple[Any, ...]:
        judges = self._judges.all().items()
        return self._control.orders, {key: (judge.model, judge.roi) for key, judge in judges}

    def _receive(self, received: Received) -> None:
        parsed = Parsed(refusal=Refusal("oversized", f"It has {received.size} bytes; {RECEIVED_BYTES} are the limit."))
        if received.size <= RECEIVED_BYTES:
            parsed = parse(received.payload)
        command_id = parsed.command_id
        known = None if command_id is None else self._memory.get(command_id)
        if received.retained:
            self._refuse(parsed, Refusal("retained", "It is retained. Publish commands without retain."), received)
        elif known is not None and known.digest != parsed.digest:
            detail = "Its command_id was used before, for another command. Give each command an id of its own."
            self._refuse(parsed, Refusal("id_reused", detail), received)
        elif known is not None and command_id is not None:
            self._repeat(command_id, known, parsed, received)
        elif (refusal := self._refusal(parsed, received)) is not None:
            self._refuse(parsed, refusal, received, remember=refusal.reason != "no_storage")
        elif parsed.request is not None:
            self._accept(parsed.request, parsed.digest, received)

    def _refusal(self, parsed: Parsed, received: Received) -> Refusal | None:
        """Why this command has no effect, whatever it asks for; None where it may be carried out."""
        if parsed.refusal is not None and parsed.refusal.reason == "oversized":
            return parsed.refusal
        if received.topic != self._origin.topics.of("cmd"):
            return Refusal("wrong_topic", f"Publish commands on {self._origin.topics.of('cmd')}.")
        if not self._config.enabled:
            return Refusal("switched_off", "This agent takes no commands. commands.enabled of its file allows them.")
        if self._publisher.trouble:
            return Refusal("no_storage", f"Commands are for a disk that remembers them. {self._publisher.trouble}")
        if (request := parsed.request) is None:
            return parsed.refusal
        if request.issued_by not in self._config.issuers:
            return Refusal("unknown_issuer", f"{request.issued_by} is not in commands.issuers of the agent's file.")
        if refusal := self._out_of_time(request, received):
            return refusal
        if isinstance(request, SetRoi):
            refusal = self._rois.refuses(request)
        else:
            refusal = self._orders.refuses(request) or self._jobs.refuses(request) or self._models.refuses(request)
        if refusal is not None:
            return refusal
        if not self._rate.allows():
            return Refusal("too_many", f"{self._config.per_minute} commands a minute are allowed here.")
        return None

    def _out_of_time(self, request: Command, received: Received) -> Refusal | None:
        if self._time_sync() != "ok" and not self._config.allow_free_running_clock:
            return Refusal(
                "clock_free_running",
                "Nothing disciplines this device's clock, so expires_at can't be judged. Run NTP or PTP, or set "
                "commands.allow_free_running_clock.",
            )
        left = self._left(request, received)
        if left <= 0:
            return Refusal("expired", f"It expired {-left:.1f} s ago by this device's clock.")
        if left > self._config.max_age_s:
            return Refusal(
                "expires_too_late",
                f"It would be valid for {left:.0f} s; {self._config.max_age_s:g} are the limit here.",
            )
        return None

    def _left(self, request: Command, received: Received) -> float:
        """Seconds that the command is still valid: by its own word, and by the message's (MQTT 5)."""
        left = (request.expires - self._utc()).total_seconds()
        if received.expiry_s is not None:
            left = min(left, received.monotonic + received.expiry_s - self._monotonic())
        return left

    def _accept(self, request: Command, digest: str, received: Received) -> None:
        """Remember it, and its effect, in one transaction with the first ack; then let it happen."""
        command_id = request.command_id
        about = Commanded(
            command_id=command_id, command=request.command, issued_by=request.issued_by, status="accepted"
        )
        effect = self._effect(request, about, received)
        self._ways[command_id] = (self._response_topic(received), received.correlation)
        answer, messages = self._answer(about)
        kept = self._memory.note(command_id, digest, answer, executed=True, outcome=effect.outcome, open=True)
        self._publisher.store(messages, keep={**effect.kept, **kept})
        number = effect.begin()
        if number is not None:
            self._pending.append(_Order(number, command_id))
            self._wake()

    def _effect(self, request: Command, about: Commanded, received: Received) -> Effect:
        if isinstance(request, ReloadModel | Rollback):
            return self._models.accept(request, about)
        if isinstance(request, SetRoi):
            return self._rois.accept(request, about)
        if isinstance(request, Snapshot | SelfTest):
            return self._jobs.accept(request, about, self._monotonic() + self._left(request, received))
        return self._orders.accept(request, about)

    def _store(self, messages: Sequence[Message], kept: Kept) -> None:
        self._publisher.store(messages, keep=kept)

    def _settle(self, command_id: str) -> None:
        known = self._memory.get(command_id)
        if known is not None and known.open and known.outcome is not None:
            self._finish(Finished(command_id, known.outcome))

    def _finish_later(self, finished: Finished) -> None:
        """From any thread."""
        self._finished.put(finished)
        self._wake()

    def _finish_jobs(self) -> None:
        while True:
            try:
                self._finish(self._finished.get_nowait())
            except Empty:
                return

    def _finish_open(self) -> None:
        """What was accepted, and has no last answer: it has happened, or it never will."""
        for command_id, left in self._memory.open():
            about = _outcome_of(left.answer.encode())
            outcome = left.outcome or self._models.ended_as(command_id, about)
            self._finish(Finished(command_id, outcome or _interrupted(about)))

    def _finish(self, finished: Finished) -> None:
        """The last ack and the audit event, in one transaction; a second outcome of the same command is none."""
        command_id, outcome, messages, kept = finished
        self._jobs.told(finished)
        known = self._memory.get(command_id)
        if known is None or not known.open:
            return
        answer, acks = self._answer(outcome)
        self._ways.pop(command_id, None)
        noted = self._memory.note(command_id, known.digest, answer, executed=True)
        self._publisher.store([*messages, *acks, self._audited(outcome)], keep={**kept, **noted})

    def _refuse(self, parsed: Parsed, refusal: Refusal, received: Received, *, remember: bool = False) -> None:
        """Say so, where an id says to whom; at a rate that no flood can raise."""
        self._refused += 1
        if self._is_flood():
            return
        outcome = Commanded(
            command_id=parsed.command_id,
            command=parsed.command,
            issued_by=parsed.issued_by,
            status="rejected",
            reason=refusal.reason,
            detail=refusal.detail,
        )
        messages: list[Message] = []
        kept: Kept = {}
        if parsed.command_id is not None:
            way = (self._response_topic(received), received.correlation)
            answer, messages = self._answer(outcome, way)
            if remember:
                kept = self._memory.note(parsed.command_id, parsed.digest, answer, executed=False)
        self._publisher.store([*messages, self._audited(outcome)], keep=kept)

    def _repeat(self, command_id: str, known: Remembered, parsed: Parsed, received: Received) -> None:
        """The same answer once more, and no second effect."""
        self._refused += 1
        if self._is_flood():
            return
        payload, way = known.answer.encode(), (self._response_topic(received), received.correlation)
        outcome = _outcome_of(payload)
        self._publisher.store([*self._addressed(payload, way), self._audited(outcome, again=True)])

    def _is_flood(self) -> bool:
        if self._answers.allows():
            self._flooded = False
            return False
        if not self._flooded:
            self._flooded = True
            log.error("Too many commands are refused; until that ends they are counted, and not answered.")
        return True

    def _answer(
        self, outcome: Commanded, way: tuple[str | None, bytes | None] | None = None
    ) -> tuple[bytes, list[Message]]:
        said = Ack(**self._origin.ids(), ts=clock.now(), **outcome.model_dump())
        payload = encode(said)
        return payload, self._addressed(payload, way or self._ways.get(said.command_id, (None, None)))

    def _addressed(self, payload: bytes, way: tuple[str | None, bytes | None]) -> list[Message]:
        response_topic, correlation = way
        if correlation is not None and len(correlation) <= CORRELATION_BYTES:
            self._publisher.correlate(payload, correlation)
        topics = [self._origin.topics.of("ack"), *([response_topic] if response_topic else [])]
        return [Message("event", topic, payload) for topic in topics]

    def _response_topic(self, received: Received) -> str | None:
        """MQTT 5: an answer goes there too, where it lies below this camera's own `ack`; nowhere else."""
        own, asked = self._origin.topics.of("ack"), received.response_topic or ""
        return asked if re.fullmatch(rf"{re.escape(own)}(/[A-Za-z0-9._-]{{1,64}}){{1,4}}", asked) else None

    def _audited(self, outcome: Commanded, *, again: bool = False) -> Message:
        what = f"{outcome.command or 'a command'} {outcome.command_id or 'without an id'}"
        why = f" ({outcome.reason})" if outcome.reason else ""
        text = f"{outcome.issued_by or 'Someone'}: {what}: {outcome.status}{why}. {outcome.detail or ''}".strip()
        if again:
            text = f"Sent again, and answered as before. {text}"
        event = Event(
            **self._origin.ids(),
            ts=clock.now(),
            event="command",
            severity="info" if outcome.status in ("done", "accepted") else "warning",
            message=text,
            command=outcome,
        )
        log.info("%s", text)
        self._audit.write({"ts": event.ts, **self._origin.ids(), **outcome.model_dump(mode="json"), "again": again})
        return Message("event", self._origin.topics.of("event"), encode(event))


def _interrupted(about: Commanded) -> Commanded:
    """Of a command that was accepted, and that the agent's end has cut short."""
    return ended(about, "interrupted", "The agent ended before it was done. Send it again under another id.")


def _outcome_of(payload: bytes) -> Commanded:
    ack = Ack.model_validate_json(payload)
    return Commanded(**{name: getattr(ack, name) for name in Commanded.model_fields})
