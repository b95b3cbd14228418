"""Subscribers that are slow, stuck or dead, and a huge backlog: live verdicts come as fast as before."""

import statistics
import time

import paho.mqtt.client as mqtt
import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import Subscriber, key

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.02}}
REPLAY_PER_S = 100.0


class Timed(Subscriber):
    """Notes when each verdict came."""

    def __init__(self, port, **options):
        self.arrived = []  # monotonic time, seconds since the frame, result
        super().__init__(port, **options)

    def _on_message(self, client, userdata, message):
        now = time.monotonic()
        super()._on_message(client, userdata, message)
        if message.topic.endswith("/result"):
            result = self.results[-1]
            self.arrived.append((now, now - result["ts_mono_ns"] / 1e9, result["historical"]))

    def live_delays(self, start=0):
        return [delay for _, delay, historical in self.arrived[start:] if not historical]


@pytest.mark.slow
def test_a_huge_backlog_is_replayed_at_its_rate_and_delays_no_live_verdict(tmp_path, broker):
    """Maps off, so that all that is counted are verdicts. The backlog is made by a short-cycled line."""
    quick = {"top": {**CAMERA["top"], "interval_s": 0.001}}
    limits = {"replay_per_s": REPLAY_PER_S, "drain_timeout_s": 0.0}
    without = {"anomaly_maps": {"publish": False}, "mqtt": limits}
    broker.stop()
    with RunningAgent(make_line(tmp_path, port=broker.port, cameras=quick, **without)) as agent:
        agent.wait_given(700)
        assert agent.end() == 0
    given = set(map(key, agent.given))
    broker.start()
    subscriber = Timed(broker.port)
    with RunningAgent(make_line(tmp_path, port=broker.port, cameras=CAMERA, **without)) as agent:
        subscriber.wait_for(lambda s: given <= s.keys, timeout=120)
        during = subscriber.live_delays()
        old = [now for now, _, historical in subscriber.arrived if historical]
        at = len(subscriber.arrived)
        subscriber.wait_for(lambda s: len(s.arrived) > at + 200)
        after = subscriber.live_delays(at)
        assert agent.end() == 0
    subscriber.close()
    rate = (len(old) - 1) / (old[-1] - old[0])
    assert rate <= 1.2 * REPLAY_PER_S
    assert len(during) > 50
    # the median: this machine may stop for a while now and then
    assert statistics.median(during) < statistics.median(after) + 0.05
    ledger = Ledger(given, list(subscriber.results))
    assert ledger.missing == ledger.out_of_order == ledger.disagreeing == []


def test_a_subscriber_that_reads_nothing_and_one_that_is_dead_cost_the_others_nothing(tmp_path, broker):
    stuck = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="stuck", clean_session=False)
    stuck.connect("127.0.0.1", broker.port)
    stuck.subscribe("faultline/#", qos=1)
    for _ in range(20):
        stuck.loop(0.05)  # and never again: its socket fills up
    dead = Subscriber(broker.port, name="dead")
    dead.close()  # its session stays, and its messages pile up at the broker
    subscriber = Timed(broker.port)
    with RunningAgent(make_line(tmp_path, port=broker.port, cameras=CAMERA)) as agent:
        subscriber.wait_for(lambda s: len(s.arrived) >= 250, timeout=120)
        assert agent.end() == 0
    assert statistics.median(subscriber.live_delays()) < 0.2
    assert Ledger(received=list(subscriber.results)).gaps == {}
    assert not any(result["historical"] for result in subscriber.results)
    subscriber.close()
    stuck.socket().close()
