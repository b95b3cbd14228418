"""The agent as a whole: its engine's process killed, its own process killed; with a real broker and a real engine."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from children import children
from ledger import Ledger
from line import RunningAgent, make_line, running
from mosquitto import free_port, key

from edge_agent.messages import Event, State

SHARED = Path("/dev/shm")


def wait_until(happened, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def line(tmp_path, broker):
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.004}}
    return make_line(tmp_path, port=broker.port, cameras=camera, engine={"wait_s": 30.0})


@pytest.mark.broker
def test_a_killed_engine_costs_the_parts_in_flight_and_nothing_else(line, subscriber):
    kills = 3
    with RunningAgent(line) as agent:
        for _ in range(kills):
            agent.wait_given(100)
            (engine,) = children(agent.pid)
            os.kill(engine, signal.SIGKILL)
            agent.wait_given(100)
            wait_until(lambda gone=engine: children(agent.pid) not in ([], [gone]))
        subscriber.wait_for(lambda s: len(s.of("event")) == kills)
        assert agent.end() == 0, agent.log
    ledger = Ledger()
    ledger.given.update(map(key, agent.given))
    subscriber.wait_for(lambda s: ledger.given <= s.keys)
    ledger.received = subscriber.results
    assert (ledger.missing, ledger.gaps, ledger.duplicates) == ([], {}, 0)
    unknown = [result for result in ledger.received if result["verdict"] == "unknown"]
    assert len(unknown) <= 2 * kills
    assert all(result["reason"] == "engine_failed" for result in unknown)
    assert all("was killed by SIGKILL" in result["detail"] for result in unknown)
    events = [Event.model_validate(message.json) for message in subscriber.of("event")]
    assert {(event.event, event.severity) for event in events} == {("engine_failed", "alarm")}
    states = [State.model_validate(message.json) for message in subscriber.of("state")]
    assert [state.state for state in states[:-1]] == ["online"] * (len(states) - 1)
    assert states[0].engine.name == "onnxruntime"
    assert states[0].engine.chosen == "engine.kind is onnxruntime."
    assert states[-2].engine.restarts == kills
    assert states[-1].engine is None


@pytest.mark.broker
def test_a_killed_agent_leaves_no_process_and_no_shared_memory(line, subscriber):
    before = set(SHARED.iterdir())
    with RunningAgent(line) as agent:
        agent.wait_given(20)
        engines = children(agent.pid)
        agent.end(signal.SIGKILL)
    assert len(engines) == 1  # the engine's, and no tracker beside it
    wait_until(lambda: not any(map(running, engines)), timeout=5.0)
    assert set(SHARED.iterdir()) == before


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_the_agent_cleanly(line, subscriber, number):
    """As systemd and a terminal do it: the engine must not be gone before the last part is scored."""
    with RunningAgent(line) as agent:
        agent.wait_given(20)
        for pid in (*children(agent.pid), agent.pid):
            os.kill(pid, number)
        assert agent.wait(60) == 0, agent.log
    assert "unknown" not in {result["verdict"] for result in agent.given}


def test_systemd_hears_ready_alive_and_stopping(tmp_path, monkeypatch):
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(30)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}
    config = make_line(tmp_path, port=free_port(), cameras=camera, mqtt={"drain_timeout_s": 0.1})
    with RunningAgent(config) as agent:
        said = [heard.recv(4096).decode().splitlines() for _ in range(3)]
        agent.end()
    while "STOPPING=1" not in said[-1]:
        said.append(heard.recv(4096).decode().splitlines())
    heard.close()
    assert said[0] == ["READY=1", "STATUS=The engine onnxruntime serves."]
    assert said[1:-1] == [["WATCHDOG=1"]] * (len(said) - 2)
    assert len(said) >= 4
