"""The broker goes away, comes back, refuses, or falls silent, while the line runs."""

import logging

import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import Mosquitto, Subscriber, key

pytestmark = pytest.mark.broker
ENDLESS = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


def test_a_broker_that_restarts_in_mid_run_costs_nothing(tmp_path, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, cameras=ENDLESS)
    with RunningAgent(config) as agent:
        agent.wait_given(20)
        for _ in range(2):
            broker.stop()
            agent.wait_given(20)  # the line doesn't wait
            broker.start()
            arrived = len(subscriber.results)
            subscriber.wait_for(lambda s, arrived=arrived: any(not r["historical"] for r in s.results[arrived:]))
            agent.wait_given(20)
        assert agent.end() == 0
    ledger = Ledger(set(map(key, agent.given)))
    with RunningAgent(config) as rest:  # what a clean stop may have left behind
        subscriber.wait_for(lambda s: ledger.given <= s.keys)
        rest.wait_given(1)
        assert rest.end() == 0
    ledger.received = [result for result in subscriber.results if result["boot"] == agent.given[0]["boot"]]
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert ledger.gaps == {}
    assert any(result["historical"] for result in ledger.received)
    assert agent.log.count("was lost. Verdicts wait in the outbox") == 2  # one line per outage
    assert agent.log.count("Connected to") == 3
    assert "can't be reached" not in agent.log


def test_a_refused_login_is_said_once_loudly_and_the_line_goes_on(tmp_path):
    broker = Mosquitto(tmp_path / "broker", users={"press-7": "right", "mes": "mes"}).start()
    subscriber = Subscriber(broker.port, username="mes", password="mes")
    (tmp_path / "secret").write_text("canary-wrong-5391")
    login = {"username": "press-7", "password_file": "secret"}
    with RunningAgent(make_line(tmp_path, port=broker.port, cameras=ENDLESS, mqtt=login)) as agent:
        agent.wait_given(150)  # more than a second: several attempts
        assert subscriber.received == []
        (tmp_path / "secret").write_text("right")  # put right while the agent runs
        subscriber.wait_for(lambda s: {r["sequence"] for r in s.results} >= set(range(150)))
        assert agent.end() == 0
    errors = [line for line in agent.logged if " ERROR " in line]
    assert len(errors) == 1, errors
    assert "The broker refuses the login: Not authorized (user press-7). Check mqtt.username" in errors[0]
    assert "can't be reached" not in agent.log
    assert "canary" not in f"{agent.log} {agent.printed} {subscriber.received}"
    assert all(result["historical"] for result in subscriber.results if result["sequence"] < 150)
    subscriber.close()
    broker.stop()


def test_connecting_waits_longer_each_time_up_to_the_limit(monkeypatch, caplog):
    """The back-off itself, without a clock: what the connection asks its closing event to wait."""
    from edge_agent.config import MqttConfig
    from edge_agent.connection import Connection, Outcome

    waits = []
    config = MqttConfig(host="127.0.0.1", port=1, reconnect_min_s=1.0, reconnect_max_s=30.0)
    connection = Connection(config, "id", will=None, wake=lambda: None)
    monkeypatch.setattr(connection, "_hold_session", lambda: Outcome("unreachable", "It is gone."))

    class Closing:
        def is_set(self):
            return len(waits) >= 12

        def wait(self, seconds):
            waits.append(seconds)

    monkeypatch.setattr(connection, "_closing", Closing())
    with caplog.at_level(logging.WARNING):
        connection._run()
    for n, wait in enumerate(waits):
        assert 0.5 * min(30.0, 2.0**n) <= wait <= min(30.0, 2.0**n)
    assert len({round(wait, 6) for wait in waits[6:]}) > 1  # jitter
    assert [record.getMessage() for record in caplog.records] == [
        "It is gone. Verdicts wait in the outbox; trying again until it is back."
    ]
