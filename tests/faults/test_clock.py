"""The wall clock jumps by years and back while the line runs: only what is shown as a time changes."""

import ast
import itertools
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from commander import ALLOWED, Commander, request
from ledger import Ledger
from line import ROOT, RunningAgent, make_line

YEAR_S = 365 * 24 * 3600
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}
WALL_CLOCKS = {"time.time", "time.time_ns", "time.gmtime", "time.localtime", "datetime.now", "datetime.utcnow"}
SHIM = Path(__file__).with_name("clock_shim.c")


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """Sets the wall clock, by so many seconds from the true one, of every process started after this."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for the library that shifts the clock")
    library, file = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM], check=True)

    def set_to(seconds):
        beside = file.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.replace(file)

    set_to(0)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_SHIFT_FILE", str(file))
    return set_to


@pytest.mark.slow
@pytest.mark.broker
def test_years_forward_and_back_change_nothing_but_the_date(tmp_path, broker, subscriber, shift, monkeypatch):
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    beats = []
    threading.Thread(target=listen, args=(heard, beats), daemon=True).start()
    limits = {"keepalive_s": 3}
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, mqtt=limits, health_interval_s=0.3)
    with RunningAgent(config) as agent:
        agent.wait_given(50)
        for years in (10, -10, -40, 0):
            shift(years * YEAR_S)
            started, at = time.monotonic(), len(agent.printed)
            agent.wait_given(200)
            assert agent.given[-1]["ts"][:4] == str(time.gmtime(time.time() + years * YEAR_S).tm_year)
            mono = [result["ts_mono_ns"] / 1e9 for result in agent.given[at:]]
            assert mono[-1] - mono[0] <= time.monotonic() - started + 0.5
        given = len(agent.printed)
        subscriber.wait_for(lambda s: len(s.results) >= given)
        assert agent.end() == 0
    heard.close()
    ledger = Ledger(received=list(subscriber.results))
    assert ledger.gaps == {}
    assert ledger.out_of_order == ledger.disagreeing == []
    mono = [result["ts_mono_ns"] for result in ledger.received]
    assert mono == sorted(mono)
    assert max(result["latency_ms"] for result in ledger.received) < 5000.0
    assert not any(result["historical"] for result in ledger.received)
    assert agent.log.count("was lost") == 0  # no keep-alive fired
    gaps = [after - before for before, after in itertools.pairwise(beats)]
    assert len(beats) >= 4
    assert max(gaps) < 5.0  # the watchdog neither fires nor goes blind
    healths = [message.json["uptime_s"] for message in subscriber.of("health")]
    assert healths == sorted(healths)
    assert {result["time_sync"] for result in ledger.received} <= {"ok", "free_running"}


def listen(heard, beats):
    try:
        while True:
            if b"WATCHDOG=1" in heard.recv(4096):
                beats.append(time.monotonic())
    except OSError:
        return


@pytest.mark.broker
def test_a_clock_in_the_past_makes_no_old_command_valid_for_long(tmp_path, broker, subscriber, shift):
    """A device that boots in 1980 finds every command to expire decades ahead, and refuses it."""
    shift(-40 * YEAR_S)
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, commands=ALLOWED)
    commander = Commander(broker, subscriber)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: s.results)
        answer = commander.send(request("pause"))
        assert (answer["status"], answer["reason"]) == ("rejected", "expires_too_late")
        assert agent.end() == 0
    commander.close()


def test_only_one_place_of_the_agent_asks_the_wall_clock():
    """So nothing can be timed or ordered by it."""
    asking = []
    for path in sorted((ROOT / "edge_agent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if f"{node.value.id}.{node.attr}" in WALL_CLOCKS:
                asking.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [where.rsplit(":")[0] for where in asking] == ["edge_agent/clock.py"], asking
