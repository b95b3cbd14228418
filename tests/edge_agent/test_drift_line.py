"""Drift on a running agent: the lamp goes down between two runs, the broker hears of it, and of its end."""

import numpy as np
import pytest
import tiny_bundle
from line import RunningAgent, draw_parts, make_line

pytestmark = pytest.mark.broker
PARTS = 50


def shine(folder, gain):
    """Parts as a lamp of so much light shows them; all of them pass."""
    random = np.random.default_rng(0)
    images = random.integers(40, 80, (PARTS, *tiny_bundle.SIZE, 3)) * random.normal(1.0, 0.01, (PARTS, 1, 1, 1))
    draw_parts(folder / "parts", np.clip(np.rint(images * gain), 0, 255).astype(np.uint8))


def test_a_lamp_that_ages_is_told_and_health_says_how_much(tmp_path, broker, subscriber):
    endless = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.002}}
    config = make_line(
        tmp_path, port=broker.port, parts=PARTS, cameras=endless, drift={"reference_parts": 100}, health_interval_s=0.1
    )

    def state() -> str:
        found = [message.json["drift"] for message in subscriber.of("health") if message.json["drift"]]
        return found[-1][0]["state"] if found else "none"

    def drift_events() -> list[tuple[str, str]]:
        events = [message.json for message in subscriber.of("event")]
        return [(event["event"], event["severity"]) for event in events]

    shine(tmp_path, 1.0)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: state() == "steady")
        agent.wait_given(2 * PARTS)
        assert agent.end() == 0
    assert drift_events() == []
    shine(tmp_path, 0.94)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: drift_events() == [("drift", "warning")])
        subscriber.wait_for(lambda s: state() == "drifting")
        agent.wait_given(4 * PARTS)
        found = subscriber.of("health")[-1].json["drift"][0]
        assert agent.end() == 0
    assert "brightness" in found["drifted"]
    assert found["changes"]["brightness"] == pytest.approx(-0.06, abs=0.015)
    assert drift_events() == [("drift", "warning")]
    assert "brightness" in subscriber.of("event")[0].json["message"]
    assert {result["verdict"] for result in subscriber.results} == {"pass"}  # long before anything is rejected
