"""The whole agent while an engine file is built beside the line, as a subscriber sees it; the builder stands in."""

import os
import signal

import pytest
import stand_in_engines as stand_in
from line import make_line

from edge_agent import agent
from edge_agent.config import read_config
from edge_agent.messages import Event, State


def run_until(config, subscriber, enough, builder):
    """Run the agent until `enough(subscriber)`; the verdicts."""
    results, told = [], []

    def given(result):
        results.append(result)
        if not told and enough(subscriber):
            told.append(True)  # a second signal would end us at once
            os.kill(os.getpid(), signal.SIGTERM)

    agent.run(config, given, opener=stand_in.open_stand_in, builder=builder)
    return results


@pytest.fixture
def config(tmp_path, broker):
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.005}}
    engine = {"kind": "tensorrt", "cache": "."}
    drift = {"enabled": False}  # on a slow machine enough parts pass by during the build for it to speak
    return read_config(make_line(tmp_path, port=broker.port, cameras=camera, engine=engine, drift=drift))


def states_of(subscriber):
    return [State.model_validate(message.json) for message in subscriber.of("state")]


@pytest.mark.broker
def test_the_state_tells_of_the_build_and_of_the_switch(config, subscriber):
    ready = lambda s: any(state.engine and not state.engine.fallback for state in states_of(s))  # noqa: E731
    results = run_until(config, subscriber, ready, stand_in.build_good)
    assert len(results) > 10
    assert "unknown" not in {result.verdict for result in results}
    states = [state.engine for state in states_of(subscriber) if state.engine]
    assert states[0].fallback
    assert states[0].asked == "tensorrt"
    assert "serves until its engine file is built: No engine file fits" in states[0].chosen
    percents = [state.building.percent for state in states if state.building]
    assert percents == sorted(percents)
    assert len(set(percents)) >= 3
    assert len(percents) <= 13  # coarse
    assert "was built on this device" in states[-1].chosen
    assert (states[-1].building, states[-1].refused) == (None, ())
    assert subscriber.of("event") == []


@pytest.mark.broker
def test_a_refused_build_is_an_event_and_stands_in_the_state(config, subscriber):
    results = run_until(config, subscriber, lambda s: s.of("event"), stand_in.build_wrong)
    assert "unknown" not in {result.verdict for result in results}
    event = Event.model_validate(subscriber.of("event")[0].json)
    assert (event.event, event.severity) == ("engine_refused", "warning")
    assert "tensorrt was not taken into service: The engine numpy disagrees with the golden set" in event.message
    last = [state.engine for state in states_of(subscriber) if state.engine][-1]
    assert last.fallback
    assert [each.name for each in last.refused] == ["tensorrt"]
    assert "disagrees with the golden set" in last.refused[0].reason
