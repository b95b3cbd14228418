"""The way to the broker: half-open in each direction, cut, slow, narrow. Nothing is lost, nothing differs."""

import time

import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import key
from proxy import Proxy

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


@pytest.fixture
def proxy(broker):
    proxy = Proxy(broker.port)
    yield proxy
    proxy.close()


def received_all(agent, subscriber):
    """What was given so far has arrived; the ledger of it."""
    given = set(map(key, agent.given))
    subscriber.wait_for(lambda s: given <= s.keys, timeout=60)
    return Ledger(given, list(subscriber.results))


@pytest.mark.parametrize("ways", [("up",), ("down",), ("up", "down")], ids=" and ".join)
def test_a_half_open_connection_is_noticed_in_time_and_all_is_sent_again(tmp_path, subscriber, proxy, ways):
    """Without a reset: bytes vanish to the broker, from the broker, or both."""
    config = make_line(tmp_path, port=proxy.port, cameras=CAMERA, mqtt={"keepalive_s": 4, "replay_per_s": 2000.0})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) >= 10)
        proxy.go_silent(*ways)
        started = time.monotonic()
        agent.wait_for(lambda a: "was lost" in a.log)
        assert time.monotonic() - started < 1.5 * 4 + 2.0  # and two seconds for a loaded machine
        agent.wait_for(lambda a: a.log.count("Connected to") == 2)
        agent.wait_given(10)
        ledger = received_all(agent, subscriber)
        assert agent.end() == 0
    assert proxy.swallowed > 0
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert ledger.gaps == {}
    if ways == ("down",):
        assert ledger.duplicates > 0  # the broker had them, but its answers were lost
    assert proxy.connections == 2


def test_a_link_that_is_cut_again_and_again_loses_nothing(tmp_path, subscriber, proxy):
    config = make_line(tmp_path, port=proxy.port, cameras=CAMERA, mqtt={"replay_per_s": 2000.0})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) >= 10)
        for refuse in (False, True, False, True, False):
            before = proxy.connections
            proxy.cut(refuse=refuse)
            agent.wait_given(20)
            proxy.mend()
            agent.wait_for(lambda a, before=before: proxy.connections > before)
            agent.wait_given(20)
        ledger = received_all(agent, subscriber)
        assert agent.end() == 0, agent.log
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert ledger.gaps == {}
    assert any(result["historical"] for result in ledger.received)


def test_a_slow_and_narrow_link_holds_up_no_part(tmp_path, subscriber, proxy):
    config = make_line(tmp_path, port=proxy.port, cameras=CAMERA, mqtt={"replay_per_s": 2000.0})
    with RunningAgent(config) as agent:
        agent.wait_given(100)
        before = [result["latency_ms"] for result in agent.given]
        proxy.delay_s, proxy.bytes_per_s = 0.3, 20_000.0  # the line makes about 100 kB/s
        at = len(agent.printed)
        agent.wait_given(300)
        after = [result["latency_ms"] for result in agent.given[at:]]
        proxy.delay_s, proxy.bytes_per_s = 0.0, float("inf")
        ledger = received_all(agent, subscriber)
        assert agent.end() == 0, agent.log
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert sorted(after)[len(after) // 2] < 3 * sorted(before)[len(before) // 2] + 10.0
    assert agent.log.count("was lost") == 0  # slow is not dead
