"""What is sent when, and what is forgotten: against a broker whose every answer the test decides."""

import json
import logging
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.connection import Acknowledged, Outcome
from edge_agent.messages import Model, Origin, Topics
from edge_agent.outbox import Message, Outbox
from edge_agent.publisher import Publisher

MODEL = Model(name="dots", version=3, digest="0" * 64, system="tiny")
ORIGIN = Origin("press-7", "top", 41, Topics("faultline", "plant", "l1", "s1", "top"), MODEL, "0.1.0")
RESULT = ORIGIN.topics.of("result")


class FakeSession:
    tells_refusals = True  # as over MQTT 5

    def __init__(self):
        self.acknowledged = deque()
        self.sent = []  # (mid, topic, payload, retain)

    def publish(self, topic, payload, *, retain=False, content_type="application/json"):
        self.sent.append((len(self.sent) + 1, topic, payload, retain))
        return len(self.sent)

    def acknowledge(self, *mids, refused=None):
        self.acknowledged.extend(Acknowledged(mid, refused) for mid in mids)

    @property
    def results(self):
        """(mid, number, historical) of each result, in the order of sending."""
        read = [(mid, json.loads(payload)) for mid, topic, payload, _ in self.sent if topic == RESULT]
        return [(mid, result["n"], result["historical"]) for mid, result in read]

    @property
    def numbers(self):
        return [n for _, n, _ in self.results]

    def acknowledge_all(self):
        self.acknowledge(*(mid for mid, *_ in self.sent))


class FakeBroker:
    def __init__(self):
        self.session = None
        self.outcome = Outcome("unreachable", "It is a fake.")

    def connect(self):
        self.session = FakeSession()
        return self.session


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def broker():
    return FakeBroker()


def new_outbox(folder, **bounds):
    return Outbox(folder / "outbox.db", **{"max_rows": 10_000, "max_bytes": 10**8, **bounds})


@pytest.fixture
def outbox(tmp_path):
    outbox = new_outbox(tmp_path)
    yield outbox
    outbox.close()


def results(*numbers):
    return [Message("result", RESULT, json.dumps({"n": n, "historical": False}).encode()) for n in numbers]


def left(outbox):
    return [json.loads(row.payload)["n"] for row in outbox.read(after=0, limit=1000) if row.kind == "result"]


def test_a_message_is_forgotten_after_its_acknowledgement_and_not_before(outbox, broker, clock):
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.send()
    publisher.store(results(0, 1, 2))
    publisher.send()
    publisher.store([], urgent=True)
    assert left(outbox) == [0, 1, 2]  # sent, but who knows
    second = session.results[1][0]
    session.acknowledge(second)
    publisher.store([], urgent=True)
    assert left(outbox) == [0, 2]
    assert publisher.delivered == 1


def test_acknowledged_rows_leave_with_the_next_verdict_or_after_a_second(outbox, broker, clock):
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.send()
    publisher.store(results(0))
    publisher.send()
    session.acknowledge_all()
    publisher.store([])
    assert left(outbox) == [0]  # no sync of the disk just for this
    clock.now += 1.1
    publisher.store([])
    assert left(outbox) == []


def test_state_is_retained_online_before_anything_else(outbox, broker, clock):
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0))
    publisher.send()
    _, topic, payload, retain = session.sent[0]
    assert (topic, retain) == ("faultline/v1/plant/l1/s1/top/state", True)
    said = json.loads(payload)
    assert (said["state"], said["boot"], said["model"]["version"]) == ("online", 41, 3)
    assert not any(retain for _, topic, _, retain in session.sent if topic == RESULT)


def test_what_came_before_the_session_is_historical_and_what_comes_in_it_is_live(outbox, broker, clock):
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.store(results(0, 1, 2))
    publisher.send()
    session = broker.connect()
    publisher.send()
    publisher.store(results(3))
    clock.now += 1.0
    publisher.send()
    assert [(n, historical) for _, n, historical in session.results] == [
        (3, False),
        (0, True),
        (1, True),
        (2, True),
    ]


def test_a_verdict_stored_after_the_session_began_is_live_even_if_nothing_was_sent_yet(outbox, broker, clock):
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0))
    publisher.send()
    assert session.results[0][1:] == (0, False)


def test_live_verdicts_are_not_held_behind_a_long_backlog(outbox, broker, clock):
    publisher = Publisher(outbox, broker, ORIGIN, window=8, replay_per_s=1000.0, monotonic=clock)
    publisher.store(results(*range(100)))
    session = broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    assert session.numbers == [0, 1, 2, 3]  # half the window, although nothing is live
    publisher.store(results(100, 101))
    publisher.send()
    assert session.numbers[4:] == [100, 101]


def test_a_broker_as_slow_as_the_line_does_not_starve_the_backlog(outbox, broker, clock):
    publisher = Publisher(outbox, broker, ORIGIN, window=8, replay_per_s=1000.0, monotonic=clock)
    publisher.store(results(*range(20)))
    session = broker.connect()
    fresh, answered = 20, 0
    for _ in range(60):  # eight new verdicts for every four that the broker takes
        publisher.store(results(*range(fresh, fresh + 8)))
        fresh += 8
        clock.now += 0.1
        publisher.send()
        answered += 4
        session.acknowledge(*(mid for mid, *_ in session.sent[answered - 4 : answered]))
    old = [n for _, n, historical in session.results if historical]
    assert old == list(range(20))
    assert len(session.numbers) - len(old) > 100  # and the live ones get most of it


def test_the_window_bounds_what_is_on_its_way(outbox, broker, clock):
    publisher, session = Publisher(outbox, broker, ORIGIN, window=4, monotonic=clock), broker.connect()
    publisher.send()
    publisher.store(results(*range(10)))
    publisher.send()
    assert session.numbers == [0, 1, 2, 3]
    session.acknowledge(session.results[0][0], session.results[1][0])
    publisher.store([])
    publisher.send()
    assert session.numbers == [0, 1, 2, 3, 4, 5]


def test_the_backlog_is_sent_at_the_given_rate(outbox, broker, clock):
    publisher = Publisher(outbox, broker, ORIGIN, window=64, replay_per_s=10.0, monotonic=clock)
    publisher.store(results(*range(100)))
    session = broker.connect()
    publisher.send()
    for _ in range(20):  # two seconds
        clock.now += 0.1
        publisher.send()
        session.acknowledge_all()
        publisher.store([])
    assert 19 <= len(session.numbers) <= 20


def test_an_outage_repeats_what_was_unanswered_and_nothing_else(outbox, broker, clock):
    publisher, first = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.send()
    publisher.store(results(0, 1, 2, 3))
    publisher.send()
    first.acknowledge(first.results[0][0], first.results[2][0])  # arrives just before the line goes dead
    broker.session = None
    publisher.store(results(4))
    publisher.send()
    second = broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    assert [(n, historical) for _, n, historical in second.results] == [(1, True), (3, True), (4, True)]


def test_what_was_acknowledged_just_before_the_outage_is_not_repeated(outbox, broker, clock):
    publisher, first = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0, 1))
    publisher.send()
    first.acknowledge(first.results[0][0])
    second = broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    assert second.numbers == [1]


def test_a_late_acknowledgement_of_an_old_session_hits_no_message_of_the_new_one(outbox, broker, clock):
    publisher, first = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0))
    publisher.send()
    broker.connect()
    publisher.send()
    first.acknowledge_all()  # message ids start anew with each session
    publisher.store([], urgent=True)
    assert left(outbox) == [0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_power_cut_repeats_one_message_and_loses_none(tmp_path, broker, clock, n):
    outbox = new_outbox(tmp_path)
    publisher, first = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0, 1, 2))
    publisher.send()
    clock.now += 1.0
    publisher.send()
    for mid, *_ in first.results[: n - 1]:
        first.acknowledge(mid)
    publisher.store([], urgent=True)
    first.acknowledge(first.results[n - 1][0])  # the broker has it, but the power goes before the disk knows
    outbox.close()
    again = new_outbox(tmp_path)  # a new process sees only the disk
    publisher, second = Publisher(again, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    again.close()
    assert second.numbers == list(range(n - 1, 3))


STEPS = st.lists(st.sampled_from(["part", "part", "send", "answer", "answer one", "outage", "tick"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_all_is_delivered_in_order_within_each_stream(tmp_path_factory, steps):
    outbox = new_outbox(tmp_path_factory.mktemp("outbox"))
    broker, clock, given_, received, sessions = FakeBroker(), Clock(), 0, set(), []
    publisher = Publisher(outbox, broker, ORIGIN, window=4, replay_per_s=50.0, monotonic=clock)

    def take(mids):
        received.update(n for mid, n, _ in broker.session.results if mid in mids)
        broker.session.acknowledge(*mids)

    for step in [*steps, *["tick", "send", "answer"] * 80]:
        if broker.session is None:
            sessions.append(broker.connect())
        if step == "part":
            publisher.store(results(given_))
            given_ += 1
        elif step == "send":
            publisher.send()
        elif step == "answer":
            take({mid for mid, *_ in broker.session.sent})
        elif step == "answer one" and broker.session.sent:
            take({broker.session.sent[-1][0]})
        elif step == "outage":
            broker.session = None
        else:
            clock.now += 0.1
            publisher.store([])
    publisher.store([], urgent=True)
    assert received == set(range(given_))
    assert left(outbox) == []
    for session in sessions:
        for stream in (False, True):
            numbers = [n for _, n, historical in session.results if historical is stream]
            assert numbers == sorted(set(numbers))
    outbox.close()


def test_a_refused_message_stays_and_is_said_once(outbox, broker, clock, caplog):
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.store(results(0, 1))
    publisher.send()
    clock.now += 1.0
    publisher.send()
    with caplog.at_level(logging.ERROR):
        session.acknowledge(*(mid for mid, *_ in session.results), refused="Not authorized")
        publisher.store([], urgent=True)
    assert left(outbox) == [0, 1]
    assert publisher.delivered == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"The broker refuses messages on {RESULT} (Not authorized). They stay in the outbox until the next connection. "
        "Allow this user to write there."
    ]


def test_an_ack_that_the_broker_hangs_up_on_stays_and_holds_no_verdict_up(outbox, broker, clock, caplog):
    """Some brokers hang up on who publishes what he may not."""
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.store([Message("event", "ack", b"{}"), *results(0, 1)])
    for _ in range(3):
        broker.connect()
        publisher.send()
        clock.now += 1.0
        publisher.send()
        broker.session = None
        publisher.send()
    assert caplog.text.count("hangs up whenever it gets a message on ack; it stays in the outbox until") == 1
    session = broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    assert "ack" not in [topic for _, topic, *_ in session.sent]
    assert session.numbers == [0, 1]
    session.acknowledge_all()
    publisher.store([], urgent=True)
    assert [row.topic for row in outbox.read(after=0, limit=9)] == ["ack"]
    again = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    session = broker.connect()
    again.send()
    clock.now += 1.0
    again.send()
    assert "ack" in [topic for _, topic, *_ in session.sent]


def test_an_image_that_the_broker_hangs_up_on_is_given_up_and_counted(outbox, broker, clock, caplog):
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.store([Message("image", "map", bytes(300)), *results(0)])
    for _ in range(3):
        broker.connect()
        publisher.send()
        clock.now += 1.0
        publisher.send()
        broker.session = None
        publisher.send()
    assert "hangs up whenever it gets the picture of 300 bytes" in caplog.text
    assert left(outbox) == [0]
    assert outbox.evicted.images == 1
    session = broker.connect()
    publisher.send()
    clock.now += 1.0
    publisher.send()
    assert session.numbers == [0]


def test_what_a_full_outbox_dropped_is_published_once_as_an_event(tmp_path, broker, clock, caplog):
    outbox = new_outbox(tmp_path, max_rows=5)
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.store([*results(*range(4)), Message("image", "map", b"png")])
    publisher.store(results(4))
    publisher.store(results(5))
    publisher.report_evicted()
    assert len(left(outbox)) == 5  # no verdict was pushed out by the news of another
    assert "The outbox is full." in caplog.text
    assert len(caplog.records) == 1
    session = broker.connect()
    for _ in range(3):
        publisher.send()
        session.acknowledge_all()
        clock.now += 1.0
        publisher.store([], urgent=True)
        publisher.report_evicted()
    publisher.send()
    events = [json.loads(payload) for _, topic, payload, _ in session.sent if topic.endswith("/event")]
    assert len(events) == 1
    assert events[0]["event"] == "outbox_evicted"
    assert events[0]["severity"] == "alarm"
    assert events[0]["counts"] == {"evicted_results": 1, "evicted_images": 1}
    assert "the oldest 1 pictures and 1 verdicts were dropped. These verdicts are lost." in events[0]["message"]
    outbox.close()


def test_a_replaced_outbox_is_an_alarm(tmp_path, broker, clock, caplog):
    (tmp_path / "outbox.db").write_bytes(b"nonsense" * 1000)
    outbox = new_outbox(tmp_path)
    publisher, session = Publisher(outbox, broker, ORIGIN, monotonic=clock), broker.connect()
    publisher.send()
    publisher.store(results(0))
    publisher.store(results(1))
    publisher.send()
    events = [json.loads(payload) for _, topic, payload, _ in session.sent if topic.endswith("/event")]
    assert [(event["event"], event["severity"]) for event in events] == [("outbox_replaced", "alarm")]
    assert "is set aside as" in events[0]["message"]
    assert len(caplog.records) == 1
    outbox.close()


def test_what_is_worth_something_now_only_needs_a_session(outbox, broker, clock):
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.tell("health", b"{}")
    publisher.announce(ORIGIN.state("stopped"))
    assert len(outbox) == publisher.unanswered == 0
    session = broker.connect()
    publisher.send()
    publisher.announce(ORIGIN.state("stopped"))
    assert publisher.unanswered == 2
    session.acknowledge_all()
    publisher.store([])
    assert publisher.unanswered == 0
    assert json.loads(session.sent[-1][2])["state"] == "stopped"


def test_a_broker_that_acknowledges_what_it_drops_and_hangs_up_costs_no_verdict(outbox, broker, clock, caplog):
    """Mosquitto 2.0, MQTT 3.1.1: what this user may not publish is acknowledged, then the connection ends."""
    publisher = Publisher(outbox, broker, ORIGIN, monotonic=clock)
    publisher.store(results(0, 1, 2))
    for _ in range(4):
        session = broker.connect()
        session.tells_refusals = False
        publisher.send()
        clock.now += 1.0
        publisher.send()
        assert session.numbers == [0, 1, 2]
        session.acknowledge(session.results[0][0])
        publisher.store([], urgent=True)
        broker.session = None
        publisher.store([], urgent=True)
        assert left(outbox) == [0, 1, 2]
    assert publisher.delivered == 0
    assert caplog.text.count("connections in a row have ended before the broker took") == 1
    session = broker.connect()
    session.tells_refusals = False
    publisher.send()
    clock.now += 1.0
    publisher.send()
    session.acknowledge(*(mid for mid, *_ in session.results))
    publisher.store([], urgent=True)
    assert left(outbox) == [2]  # the connection outlived the first two ...
    clock.now += 1.0
    publisher.store([], urgent=True)
    assert left(outbox) == []  # ... and the last one
    assert publisher.delivered == 3
