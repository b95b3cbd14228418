"""What counts as a sign of another agent of the same name, and what doesn't."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import MqttConfig
from edge_agent.connection import STABLE_S, Connection, Outcome
from edge_agent.identity import QUIET_S, SUSPECT_S, TAKEOVER_S, Identity


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def state(instance, state="online", boot=7):
    return json.dumps({"instance": instance, "state": state, "boot": boot}).encode()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def identity(clock):
    identity = Identity("me", monotonic=clock)
    identity.session_began()
    return identity


def test_our_own_states_are_no_sign(identity):
    for retained in (False, True):
        identity.saw(state("me"), retained=retained)
    assert (identity.take(), identity.contested) == (None, False)


def test_what_an_earlier_run_left_behind_is_no_sign_and_neither_is_its_late_will(identity):
    identity.saw(state("before"), retained=True)
    identity.saw(state("before", "offline"), retained=False)
    assert (identity.take(), identity.contested) == (None, False)


def test_a_stranger_that_speaks_now_is_told_once_until_it_has_been_quiet_for_long(identity, clock):
    identity.saw(state("other", boot=9), retained=False)
    said = identity.take()
    assert "Another agent speaks for this device and camera (its boot: 9)." in said
    assert "Give each its own device name and client id." in said
    for _ in range(100):
        clock.now += 60.0
        identity.saw(state("other"), retained=False)
        assert identity.take() is None
    assert identity.contested
    clock.now += SUSPECT_S + 1
    assert not identity.contested
    clock.now += QUIET_S
    identity.saw(state("other"), retained=False)
    assert identity.take()


def test_one_who_was_there_before_us_and_speaks_again_is_alive(identity):
    identity.saw(state("other"), retained=True)
    identity.saw(state("other"), retained=False)
    assert identity.take()


def test_a_state_that_is_not_ours_when_we_come_back_is_a_sign(identity):
    """With one client id neither hears the other speak: each finds what the other has left."""
    identity.session_began()
    identity.saw(state("other"), retained=True)
    assert identity.take()


def test_one_that_we_found_at_our_start_and_find_again_and_again_is_a_sign(identity):
    identity.saw(state("other"), retained=True)
    for _ in range(2):
        assert identity.take() is None
        identity.session_began()
        identity.saw(state("other", "offline"), retained=True)
    assert identity.take()


def test_two_takeovers_within_minutes_are_a_sign_and_one_is_not(identity, clock):
    identity.session_taken_over()
    clock.now += TAKEOVER_S + 1
    identity.session_taken_over()  # a person with the same client id, once in a while
    assert identity.take() is None
    clock.now += 1
    identity.session_taken_over()
    assert "gave this agent's session to another client" in identity.take()


@given(payload=st.one_of(st.binary(max_size=300), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
    lambda value: json.dumps(value).encode())), retained=st.booleans())  # fmt: skip
def test_nonsense_is_no_sign(payload, retained):
    identity = Identity("me")
    identity.session_began()
    identity.saw(payload, retained=retained)
    identity.saw(b"[" * 100_000, retained=retained)
    assert identity.take() is None


def test_while_the_name_is_contested_the_back_off_does_not_begin_anew(monkeypatch):
    waits, identity, now = [], Identity("me"), [0.0]
    config = MqttConfig(host="127.0.0.1", port=1, reconnect_min_s=1.0, reconnect_max_s=64.0)
    connection = Connection(config, "id", will=None, wake=lambda: None, own_state="s", identity=identity)

    def a_session():
        now[0] += 2 * STABLE_S  # long enough to end an outage, were it one
        if len(waits) == 3:
            identity.saw(state("other"), retained=False)
        return Outcome("unreachable", "It is gone.")

    class Closing:
        def is_set(self):
            return len(waits) >= 9

        def wait(self, seconds):
            waits.append(seconds)

    monkeypatch.setattr("edge_agent.connection.time.monotonic", lambda: now[0])
    monkeypatch.setattr("edge_agent.identity.time.monotonic", lambda: now[0])
    monkeypatch.setattr(identity, "_monotonic", lambda: now[0])
    monkeypatch.setattr(connection, "_hold_session", a_session)
    monkeypatch.setattr(connection, "_closing", Closing())
    connection._run()
    assert max(waits[:3]) <= 1.0
    for n, wait in enumerate(waits[3:]):
        assert 0.5 * 2.0 ** (n + 1) <= wait <= 2.0 ** (n + 1) or wait <= 2.0**n
    assert waits[-1] >= 8.0
