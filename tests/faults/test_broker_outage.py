"""The broker goes away, comes back, refuses, or falls silent, while the line runs."""

import logging
import socket
import threading
import time

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


class Proxy:
    """Passes bytes to the broker until it is told to swallow them: a network that is cut without a reset."""

    def __init__(self, port):
        self._target, self._server = port, socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._silent, self._sockets = set(), []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def go_silent(self):
        """Swallow all that comes on the present connections, in both directions, and close nothing."""
        self._silent.update(self._sockets)

    def close(self):
        self._server.close()
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            self.connections += 1
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source, sink):
        try:
            while data := source.recv(65536):
                if source not in self._silent:
                    sink.sendall(data)
            if source not in self._silent:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_a_connection_that_died_in_silence_is_noticed_within_the_promised_time(tmp_path, broker, subscriber):
    proxy = Proxy(broker.port)
    config = make_line(tmp_path, port=proxy.port, cameras=ENDLESS, mqtt={"keepalive_s": 4})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) >= 10)
        proxy.go_silent()
        started = time.monotonic()
        agent.wait_for(lambda a: "was lost" in a.log)
        assert time.monotonic() - started < 1.5 * 4 + 2.0  # and two seconds for a loaded machine
        agent.wait_for(lambda a: a.log.count("Connected to") == 2)
        last = len(agent.given)
        subscriber.wait_for(lambda s: {r["sequence"] for r in s.results} >= set(range(last)))
        assert agent.end() == 0
    ledger = Ledger(received=subscriber.results)
    assert ledger.disagreeing == ledger.out_of_order == []
    assert proxy.connections == 2
    proxy.close()


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
