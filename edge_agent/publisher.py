"""From the outbox to the broker: at least once, in order, forgotten only after PUBACK.

Live messages (stored since the present session began) go first. What an outage or a restart left behind is replayed
beside them, oldest first, at a limited rate, flagged historical. Both streams keep their order, and neither starves the
other. One thread does it all.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from edge_agent import clock
from edge_agent.connection import Outcome, Session
from edge_agent.control import Orders
from edge_agent.engine_state import EventNote
from edge_agent.identity import Identity
from edge_agent.messages import Box, EngineInService, Event, EventName, Model, Origin, Severity, State, encode
from edge_agent.outbox import Evicted, Message, Outbox, Row

log = logging.getLogger(__name__)

FORGET_AFTER_S = (
    1.0  # acknowledged rows leave with the next stored verdict, or after this long: fewer syncs of the disk
)
CORRELATED = 64  # acks whose correlation data is remembered
OUTLIVED_S = 0.5  # MQTT 3.1.1: the newest acknowledgement counts once the connection has lasted so long after it
POISON_AFTER = 3  # sessions that ended with the same message as the first unanswered one
SUSPECTS = 64  # messages that one session at least ended with; more are not remembered


class Broker(Protocol):
    """What the publisher needs of a connection."""

    @property
    def session(self) -> Session | None: ...

    @property
    def outcome(self) -> Outcome: ...


class _Sent(NamedTuple):
    row: Row
    historical: bool


class Publisher:
    """Owns the outbox from its first call on."""

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        origin: Origin,
        *,
        window: int = 64,
        replay_per_s: float = 200.0,
        engine: Callable[[], EngineInService | None] = lambda: None,
        orders: Callable[[], Orders | None] = lambda: None,
        model: Callable[[], Model | None] = lambda: None,
        rois: Callable[[], Mapping[str, Box]] = dict,
        identity: Identity | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._outbox, self._broker, self._origin, self._window = outbox, broker, origin, window
        self._replay_per_s, self._monotonic = replay_per_s, monotonic
        self._engine, self._orders, self._model, self._rois = engine, orders, model, rois  # now: the state's
        self._correlations: dict[bytes, bytes] = {}  # of acks, by their payload
        self.delivered = 0  # results the broker has taken since the start
        self._session: Session | None = None
        self._sent: dict[int, _Sent] = {}  # message id -> what the broker hasn't answered yet, in the order of sending
        self._asides: set[int] = set()  # message ids of states and health messages, which no row stands behind
        self._newest: tuple[int, float] | None = None  # message id and time of an acknowledgement not yet believed
        self._acknowledged: list[int] = []  # rows to forget with the next commit
        self._live = self._replayed = self._backlog_end = 0
        self._allowance, self._refilled = 0.0, monotonic()
        self._committed = monotonic()
        self._suspected: Counter[int] = Counter()
        self._set_aside: set[int] = set()  # rows that this process sends no more
        self._identity = identity
        self._refusals_logged = False
        self._fruitless = 0  # sessions since the broker took the last verdict
        self._replaced: str | None = None
        self._trouble: str | None = None  # of the disk, as last told
        self._evicting = False

    def store(
        self, messages: Sequence[Message], *, urgent: bool = False, keep: Mapping[str, bytes | None] | None = None
    ) -> None:
        """Make messages durable, and forget what the broker has acknowledged; `urgent` forgets it now.

        keep: values that the outbox keeps in the same transaction.
        """
        self._notice_session()
        self._collect()
        if self._newest is not None and self._monotonic() - self._newest[1] > OUTLIVED_S:
            self._believe()
        due = urgent or self._monotonic() - self._committed > FORGET_AFTER_S
        if messages or keep or (self._acknowledged and due) or self.trouble:
            self._commit(messages, keep=keep)
        self._notice_storage()
        if self._identity is not None and (clash := self._identity.take()) is not None:
            log.error("%s", clash)
            self.raise_events([("identity_clash", "alarm", clash)])
            self.announce(self._online())  # the other one sees it, too
        if self._outbox.replaced != self._replaced:
            self._replaced = self._outbox.replaced
            log.error("%s", self._replaced)
            self._commit([self._event("outbox_replaced", "alarm", str(self._replaced), {})])

    def send(self) -> None:
        """Hand the broker what its window has room for; returns at once."""
        self._notice_session()
        session = self._session
        if session is None:
            return
        if self._live < self._outbox.last and (room := self._room_for_live()) > 0:
            for row in self._outbox.read(after=self._live, limit=room):
                self._publish(session, row, historical=False)
                self._live = row.id
        if self._replayed < self._backlog_end and (limit := self._room_to_replay()) > 0:
            rows = self._outbox.read(after=self._replayed, up_to=self._backlog_end, limit=limit)
            for row in rows:
                self._publish(session, row, historical=True)
                self._replayed = row.id
            self._allowance -= len(rows)
            if len(rows) < limit:
                self._replayed = self._backlog_end

    def announce(self, state: State) -> None:
        """Publish a retained state now, where there is a session; nothing remembers it otherwise."""
        if self._session is not None:
            topic = self._origin.topics.of("state")
            self._asides.add(self._session.publish(topic, encode(state), retain=True))

    def announce_online(self) -> None:
        """Publish the present state again: the engine has changed, the model, or the orders."""
        self._notice_session()
        self.announce(self._online())

    def announce_stopped(self) -> None:
        """The last state of a clean end."""
        self.announce(self._origin.state("stopped", model=self._model()))

    def raise_events(self, events: Sequence[EventNote]) -> None:
        """Store events; they are delivered like results."""
        if events:
            self._commit([self._event(*event[:3], event[3] if len(event) == 4 else {}) for event in events])

    def correlate(self, payload: bytes, correlation: bytes) -> None:
        """Send this payload, which is yet to be stored, with correlation data (MQTT 5); forgotten at a restart."""
        self._correlations[payload] = correlation
        while len(self._correlations) > CORRELATED:
            del self._correlations[next(iter(self._correlations))]

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish what is only worth something now (health), where there is a session."""
        if self._session is not None:
            self._asides.add(self._session.publish(topic, payload))

    def report_evicted(self) -> None:
        """Store an event about what a full outbox has dropped since the last one; call it every few seconds.

        The counts wait until the outbox is being emptied: an event would only push out one more verdict.
        """
        if self.trouble or self._outbox.is_full or not any(lost := self._outbox.unreported):
            return
        text = (
            f"The outbox was full: the oldest {lost.images} pictures and {lost.results} verdicts were dropped. "
            f"{'These verdicts are lost.' if lost.results else 'No verdict is lost.'}"
        )
        counts = {"evicted_results": lost.results, "evicted_images": lost.images}
        event = self._event("outbox_evicted", "alarm" if lost.results else "warning", text, counts)
        self._outbox.commit([event], reported=lost)

    @property
    def unanswered(self) -> int:
        """Messages on their way, without an answer of the broker."""
        return len(self._sent) + len(self._asides)

    @property
    def left(self) -> int:
        """Messages in the outbox; those acknowledged since the last commit still count (`store(urgent=True)`)."""
        return len(self._outbox)

    @property
    def hopeless(self) -> bool:
        """Waiting won't help: the broker is there and wants another login or certificate."""
        return self._broker.outcome.status in ("refused", "certificate")

    @property
    def trouble(self) -> str | None:
        """Why the disk takes nothing, a sentence; None where it does."""
        return self._outbox.trouble

    @property
    def outbox(self) -> Outbox:
        return self._outbox

    @property
    def wait_s(self) -> float:
        """How long the next call of `send` may wait when nothing happens until then."""
        if self._session is not None and self._replayed < self._backlog_end:
            return 0.05
        return OUTLIVED_S if self._newest is not None else FORGET_AFTER_S

    def _commit(
        self,
        messages: Sequence[Message],
        lost: Evicted = Evicted(),
        keep: Mapping[str, bytes | None] | None = None,
    ) -> None:
        evicted = self._outbox.commit(messages, forget=self._acknowledged, lost=lost, keep=keep)
        self._acknowledged = []
        if any(evicted) and self._outbox.is_full and not self.trouble and not self._evicting:
            self._evicting = True
            log.error("The outbox is full. The oldest pictures make room, then the oldest verdicts; all are counted.")
        self._committed = self._monotonic()

    def _notice_storage(self) -> None:
        """Say when verdicts begin to be held in memory, and when the disk has them all again."""
        before, self._trouble = self._trouble, self.trouble
        if (before is None) == (self._trouble is None):
            return
        if self._trouble is not None:
            text = f"{self._trouble} Verdicts are held in memory; those that the broker doesn't get can be lost."
            log.error("%s", text)
            self._commit([self._event("outbox_in_memory", "alarm", text, {})])
        else:
            text = "The disk takes verdicts again, and has all that were held in memory."
            log.warning("%s", text)
            self._commit([self._event("outbox_on_disk", "info", text, {"most_held": self._outbox.most_held})])
        self.announce(self._online())

    def _collect(self) -> None:
        """Take the broker's answers from the session."""
        while self._session is not None and self._session.acknowledged:
            mid, refused = self._session.acknowledged.popleft()
            self._believe()  # the connection has outlived the one before
            if mid not in self._sent:
                self._asides.discard(mid)
            elif refused is None:
                self._newest = (mid, self._monotonic())
                if self._session.tells_refusals:
                    self._believe()
            elif (sent := self._sent.pop(mid)) and not self._refusals_logged:
                self._refusals_logged = True
                log.error(
                    "The broker refuses messages on %s (%s). They stay in the outbox until the next connection. "
                    "Allow this user to write there.",
                    sent.row.topic,
                    refused,
                )

    def _believe(self) -> None:
        """The broker has the message that it acknowledged last.

        Over MQTT 3.1.1 Mosquitto 2.0 acknowledges what this user may not publish, drops it, and hangs up. So the last
        acknowledgement before the end of a connection says nothing, and its message is sent again.
        """
        if self._newest is not None and (sent := self._sent.pop(self._newest[0], None)) is not None:
            self._acknowledged.append(sent.row.id)
            if sent.row.kind == "result":
                self.delivered += 1
                self._fruitless = 0
        self._newest = None

    def _notice_session(self) -> None:
        """Begin with a new session, or note that there is none: what was unanswered belongs to the backlog again."""
        session = self._broker.session
        if session is self._session:
            return
        self._collect()
        self._newest = None
        self._suspect_poison()
        self._sent.clear()
        self._asides.clear()
        self._session = session
        if session is None:
            return
        self._refusals_logged = self._evicting = False
        if self._acknowledged:
            self._commit([])  # or they would be read, and sent, again
        self._live = self._backlog_end = self._outbox.last
        self._replayed = 0
        self._allowance, self._refilled = 0.0, self._monotonic()
        self.announce(self._online())

    def _online(self) -> State:
        orders, model = self._orders(), self._model()
        storage: Literal["disk", "memory"] = "memory" if self.trouble else "disk"
        if orders is None:
            return self._origin.state("online", self._engine(), model=model, storage=storage)
        threshold, paused = orders.threshold, orders.paused
        return self._origin.state(
            "online", self._engine(), threshold=threshold, paused=paused, model=model, storage=storage,
            rois=self._rois(),
        )  # fmt: skip

    def _suspect_poison(self) -> None:
        """A broker hangs up on a message, every time: give up that one, not the connection.

        On an image that is over its size limit: it is dropped. On an ack or event that this user may not publish: it
        stays in the outbox until the agent's next start, and verdicts don't wait for it. Verdicts are never given up:
        they are sent again at each connection, which are ever rarer, and the log says why they may not get through.
        """
        first = next(iter(self._sent.values()), None)
        if first is None:
            return
        if first.row.kind == "result":
            self._fruitless += 1
            if self._fruitless == POISON_AFTER:
                log.error(
                    "%d connections in a row have ended before the broker took a verdict on %s. All are kept. "
                    "Some brokers hang up on who may not write there: allow this user to.",
                    POISON_AFTER,
                    first.row.topic,
                )
            return
        self._suspected[first.row.id] += 1
        while len(self._suspected) > SUSPECTS:
            del self._suspected[next(iter(self._suspected))]
        if self._suspected[first.row.id] < POISON_AFTER:
            return
        if first.row.kind == "event":
            self._set_aside.add(first.row.id)
            log.error(
                "The broker hangs up whenever it gets a message on %s; it stays in the outbox until the agent's next "
                "start. Allow this user to write there.",
                first.row.topic,
            )
        else:
            log.error(
                "The broker hangs up whenever it gets the picture of %d bytes on %s; it is given up. "
                "Raise the broker's limit of the message size, or set anomaly_maps.publish to false.",
                len(first.row.payload),
                first.row.topic,
            )
            self._acknowledged.append(first.row.id)
            self._commit([], lost=Evicted(images=1))

    def _publish(self, session: Session, row: Row, *, historical: bool) -> None:
        if row.id in self._set_aside:
            return
        payload = _as_historical(row.payload) if historical and row.kind == "result" else row.payload
        content_type = "image/png" if row.kind == "image" else "application/json"
        if (correlation := self._correlations.get(payload)) is not None:
            mid = session.publish(row.topic, payload, content_type=content_type, correlation=correlation)
        else:
            mid = session.publish(row.topic, payload, content_type=content_type)
        self._sent[mid] = _Sent(row, historical)

    def _room_for_live(self) -> int:
        """The window, but for a quarter while there is a backlog: a broker as slow as the line must not starve it."""
        old = self._old_on_their_way()
        kept_free = self._window // 4 if self._replayed < self._backlog_end else 0
        return self._window - max(old, kept_free) - (len(self._sent) - old)

    def _room_to_replay(self) -> int:
        """How many old messages may go now: half the window at most, and no more than the rate allows."""
        now = self._monotonic()
        half = self._window // 2
        self._allowance = min(float(half), self._allowance + (now - self._refilled) * self._replay_per_s)
        self._refilled = now
        return min(int(self._allowance), half - self._old_on_their_way(), self._window - len(self._sent))

    def _old_on_their_way(self) -> int:
        return sum(sent.historical for sent in self._sent.values())

    def _event(self, event: EventName, severity: Severity, message: str, counts: dict[str, int]) -> Message:
        ids = self._origin.ids()
        said = Event(**ids, ts=clock.now(), event=event, severity=severity, message=message, counts=counts)
        return Message("event", self._origin.topics.of("event"), encode(said))


def _as_historical(payload: bytes) -> bytes:
    """The stored result with its flag raised; fields of an older agent's results stay as they are."""
    return json.dumps({**json.loads(payload), "historical": True}, ensure_ascii=False, separators=(",", ":")).encode()
