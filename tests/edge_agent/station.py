"""A command desk with its outbox and nothing else of an agent, for tests of what commands do."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from commander import request
from judging import MODEL, IdleEngine, judges_of, workshop_of

from edge_agent.commands.desk import CommandDesk
from edge_agent.commands.memory import restore
from edge_agent.config import CommandsConfig
from edge_agent.connection import Outcome, Received
from edge_agent.control import Control
from edge_agent.messages import Origin, Topics
from edge_agent.outbox import Outbox
from edge_agent.publisher import Publisher

ORIGIN = Origin("press-7", "top", 41, Topics("faultline", "plant", "l1", "s1", "top"), MODEL, "0.1.0")
CMD, ACK = ORIGIN.topics.of("cmd"), ORIGIN.topics.of("ack")


class Time:
    """Both clocks; the monotonic one can't be set."""

    def __init__(self):
        self.monotonic, self.utc = 1000.0, datetime.now(timezone.utc)

    def pass_by(self, seconds):
        self.monotonic += seconds
        self.utc += timedelta(seconds=seconds)


class Inbox:
    dropped = 0

    def __init__(self):
        self.waiting = []

    def take(self):
        taken, self.waiting = self.waiting, []
        return taken


class Broker:
    session = None
    outcome = Outcome("unreachable", "It is a fake.")


class Station:
    """A desk with its outbox, and nothing else of an agent."""

    def __init__(self, folder, *, time_sync="ok", bundle=None, judges=None, workshop=None, **config):
        config = {"enabled": True, "issuers": ("engineer",), "audit_file": folder / "commands.log", **config}
        self.time, self.inbox, self.time_sync = Time(), Inbox(), time_sync
        self.config, self.bundle, self._path = CommandsConfig(**config), bundle, folder / "outbox.db"
        self.judges = judges or judges_of(IdleEngine(), None, bundle=bundle)
        self.workshop = workshop or workshop_of(folder)
        self.start()

    def start(self):
        self.outbox = Outbox(self._path, max_rows=100_000, max_bytes=10**8)
        digest = self.bundle.digest if self.bundle else "b"
        standing = restore(self.outbox.recall(), self.config, 1.0, digest)
        self.control = Control(standing.threshold, paused=standing.paused)
        self.desk = CommandDesk(
            self.config, self.inbox, Publisher(self.outbox, Broker(), ORIGIN), ORIGIN, self.control,
            self.judges, standing, self.workshop,
            monotonic=lambda: self.time.monotonic, utc=lambda: self.time.utc, time_sync=lambda: self.time_sync,
        )  # fmt: skip

    def restart(self, *, cleanly=True):
        if cleanly:
            self.desk.close()
        self.outbox.close()
        self.start()

    def payloads(self, topic):
        return [json.loads(row.payload) for row in self.outbox.read(after=0, limit=10**6) if row.topic == topic]

    @property
    def acks(self):
        return self.payloads(ACK)

    def events(self, name):
        return [each for each in self.payloads(ORIGIN.topics.of("event")) if each["event"] == name]

    @property
    def audited(self):
        return [each["command"] for each in self.events("command")]

    def receive(self, payload, *, topic=CMD, retained=False, **properties):
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        kept = data if len(data) <= 4096 else b""
        self.inbox.waiting.append(Received(topic, kept, len(data), retained, self.time.monotonic, **properties))
        self.desk.attend(())
        self.desk.attend(self.desk.settled())

    def ask(self, payload, **options):
        """The last answer to it."""
        before = len(self.acks)
        self.receive(payload, **options)
        answers = self.acks[before:]
        assert answers
        return answers[-1]

    def request(self, command, *, valid_s=60.0, **changes):
        expires = (self.time.utc + timedelta(seconds=valid_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return request(command, **{"expires_at": expires, **changes})

    def set_threshold(self, threshold):
        return self.ask(self.request("set_threshold", arguments={"threshold": threshold}))

    def undo(self):
        return self.ask(self.request("set_threshold", arguments={"undo": True}))


@pytest.fixture
def station(tmp_path):
    station = Station(tmp_path)
    yield station
    station.outbox.close()
