"""Any bytes on `trigger`: a part, or a refusal that is counted and told; never an exception, nor a flood of events."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.connection import Received
from edge_agent.parts.inbox import TOLD_EVERY_S, TriggerInbox
from edge_agent.parts.requests import TriggerRequest, parse_trigger

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Line:
    """Takes triggers until it is full."""

    def __init__(self, room=10**9):
        self.room, self.taken = room, []

    def trigger(self, trigger, *, redelivered, too_late):
        if len(self.taken) >= self.room:
            return False
        self.taken.append((trigger, redelivered, too_late))
        return True


class Desk:
    """An inbox with a clock that the test moves."""

    def __init__(self, *, room=10**9, time_sync="ok"):
        self.line, self.events, self.now_s = Line(room), [], 100.0
        self.inbox = TriggerInbox(
            self.line, 500.0, self.events.append,
            utc=lambda: NOON, time_sync=lambda: time_sync, monotonic=lambda: self.now_s,
        )  # fmt: skip

    def receive(self, payload, *, retained=False, dup=False):
        payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.inbox.receive(Received("t", payload[:4096], len(payload), retained, 7.5, dup=dup))


def test_a_trigger_goes_to_the_line_with_the_moment_it_came():
    desk = Desk()
    desk.receive({"trigger_id": "a", "part": "p-1", "product": "jar"}, dup=True)
    ((trigger, redelivered, too_late),) = desk.line.taken
    assert (trigger.trigger_id, trigger.part, trigger.product) == ("a", "p-1", "jar")
    assert (trigger.at, trigger.ts_mono_ns, redelivered, too_late) == (NOON, 7_500_000_000, True, None)
    assert desk.events == []


@pytest.mark.parametrize(
    ("took_s", "time_sync", "too_late"),
    [
        (0.4, "ok", None),
        (0.6, "ok", "The trigger took 600 ms to arrive; window_ms is 500."),
        (-9.0, "ok", None),
        (600.0, "free_running", None),
    ],
)
def test_a_trigger_that_was_on_its_way_for_too_long_is_told_by_a_disciplined_clock(took_s, time_sync, too_late):
    desk = Desk(time_sync=time_sync)
    issued = (NOON - timedelta(seconds=took_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    desk.receive({"trigger_id": "a", "issued_at": issued})
    assert desk.line.taken[0][2] == too_late


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\xff\xfe", "It is not JSON in UTF-8 with each field once."),
        (b'{"trigger_id": "a", "trigger_id": "b"}', "It is not JSON in UTF-8 with each field once."),
        (b'{"trigger_id": NaN}', "It is not JSON in UTF-8 with each field once."),
        (b"[" * 4000, "It is not JSON in UTF-8 with each field once."),
        ([], "It is not a JSON object."),
        ({}, "trigger_id: Field required."),
        ({"trigger_id": "a canary"}, "trigger_id: String should match pattern '^[A-Za-z0-9._-]{1,64}$'."),
        ({"trigger_id": 7}, "trigger_id: Input should be a valid string."),
        ({"trigger_id": "a", "canary": 1}, "It has a field that no trigger has. docs/messages.md shows the fields."),
        ({"trigger_id": "a", "issued_at": "2026-13-01T00:00:00Z"}, "issued_at: Time data"),
        ({"trigger_id": "a" * 5000}, "It has 5018 bytes; 4096 are the limit."),
    ],
)
def test_what_is_none_is_refused_with_a_sentence(payload, why):
    desk = Desk()
    desk.receive(payload)
    ((name, severity, text, counts),) = desk.events
    assert (name, severity, counts) == ("trigger_refused", "warning", {"refused": 1})
    assert text.startswith("A message on `trigger` was refused, without a verdict. The last one: ")
    assert why in text
    assert "canary" not in text
    assert (desk.line.taken, desk.inbox.refused) == ([], 1)


def test_what_is_refused_within_the_minute_is_told_at_the_end():
    desk = Desk()
    for payload in (b"x1", b"x2", b"x3"):
        desk.receive(payload)
    assert [counts for *_, counts in desk.events] == [{"refused": 1}]
    desk.inbox.report(at_once=True)
    assert [counts for *_, counts in desk.events] == [{"refused": 1}, {"refused": 2}]
    assert desk.events[-1][2].startswith("2 messages on `trigger` were refused, ")


def test_the_empty_message_that_clears_a_retained_one_is_nothing():
    desk = Desk()
    desk.receive(b"", retained=True)
    desk.receive(b"")
    assert (desk.events, desk.line.taken, desk.inbox.refused) == ([], [], 0)


def test_retained_triggers_and_those_of_a_flood_are_refused():
    desk = Desk(room=1)
    desk.receive({"trigger_id": "a"}, retained=True)
    assert desk.line.taken == []
    desk.receive({"trigger_id": "b"})
    desk.receive({"trigger_id": "c"})
    desk.now_s += TOLD_EVERY_S
    desk.inbox.report()
    assert [event[3] for event in desk.events] == [{"refused": 1}, {"refused": 1}]
    assert "Publish triggers without retain." in desk.events[0][2]
    assert "Too many parts wait for the line" in desk.events[1][2]


def test_a_flood_of_nonsense_is_one_event_a_minute_that_counts_them():
    desk = Desk()
    for _ in range(5000):
        desk.receive(b"?")
    assert [event[3] for event in desk.events] == [{"refused": 1}]
    desk.now_s += TOLD_EVERY_S
    desk.inbox.report()
    desk.inbox.report()
    assert [event[3] for event in desk.events] == [{"refused": 1}, {"refused": 4999}]
    assert desk.inbox.refused == 5000


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes_are_a_trigger_or_a_sentence(payload):
    found = parse_trigger(payload)
    assert isinstance(found, TriggerRequest) or found.endswith(".")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["trigger_id", "part", "product", "issued_at"])


@given(st.dictionaries(FIELDS | st.text(max_size=5), VALUES | st.just("2026-03-01T12:00:00Z"), max_size=5))
def test_any_json_is_a_trigger_or_a_sentence(value):
    desk = Desk()
    desk.receive(value)
    assert len(desk.line.taken) + desk.inbox.refused == 1
