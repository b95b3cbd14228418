"""A judge for another bundle gets its engine beside the line: built first, silent till it serves, gone if given up."""

import threading

import pytest
from judging import IdleEngine
from line import running
from model_station import Line
from served import wait_until
from shelved import put
from stand_in_engines import build_for_ever, build_good, build_refused, build_wrong, open_stand_in

from edge_agent.bundle import open_bundle
from edge_agent.config import AgentConfig
from edge_agent.engine_state import EngineState
from edge_agent.engines import EngineError
from edge_agent.models.appoint import Appointer
from edge_agent.models.judge import Judge


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(put(tmp_path, "v4", 4, key=None))


def appointer(folder, state, builder, **engine):
    config = AgentConfig(
        device="press-7", bundle=folder / "v4", topic={"site": "a", "line": "b", "station": "c"},
        cameras={"top": {"kind": "folder", "path": folder}}, mqtt={"host": "localhost"},
        engine={"kind": "tensorrt", "cache": folder, "timeout_s": 1.0, **engine},
    )  # fmt: skip
    return Appointer(config, state, opener=open_stand_in, builder=builder)


def test_the_engine_is_built_before_the_judge_is_there_and_the_state_hears_nothing(tmp_path, bundle):
    state = EngineState()
    judge = appointer(tmp_path, state, build_good).appoint_beside(bundle, threading.Event())
    try:
        assert (judge.voice.status.fallback, judge.voice.status.building) == (False, None)
        assert state.take() == (False, [])
        judge.voice.speak()
        assert state.take() == (True, [])
        assert state.in_service(judge.voice).name == judge.engine.name
        judge.voice.be_silent()
        judge.voice.note_status(judge.voice.status)
        assert state.take() == (False, [])
    finally:
        judge.engine.close()


@pytest.mark.parametrize("builder", [build_refused, build_wrong])
def test_an_engine_that_cannot_be_built_leaves_the_fallback_which_the_voice_admits(tmp_path, bundle, builder):
    judge = appointer(tmp_path, EngineState(), builder).appoint_beside(bundle, threading.Event())
    try:
        assert judge.voice.status.fallback
        assert judge.voice.status.refused
    finally:
        judge.engine.close()


def test_without_a_fallback_there_is_no_judge(tmp_path, bundle):
    with pytest.raises(EngineError, match="No engine file fits"):
        appointer(tmp_path, EngineState(), build_refused, fallback=False).appoint_beside(bundle, threading.Event())


def test_what_was_begun_ends_when_it_is_given_up(tmp_path, bundle):
    closing, judges = threading.Event(), []
    make = appointer(tmp_path, EngineState(), build_for_ever)
    thread = threading.Thread(target=lambda: judges.append(make.appoint_beside(bundle, closing)))
    thread.start()
    wait_until(lambda: (tmp_path / "builder").exists() and (tmp_path / "builder").read_text())
    builder = int((tmp_path / "builder").read_text().split()[0])
    assert thread.is_alive()
    closing.set()
    thread.join(30)
    judges[0].engine.close()
    wait_until(lambda: not running(builder))


def test_a_bundle_that_only_the_fallback_could_serve_does_not_replace_one_that_is_served_better(tmp_path, bundle):
    """The line's engine is proved; the new bundle's could not be built."""
    judge = appointer(tmp_path, EngineState(), build_refused).appoint_beside(bundle, threading.Event())

    class Served(Line):
        def appoint(self, bundle, closing=None):
            if bundle.manifest.version == 4:
                return judge
            status = type("Status", (), {"name": "tensorrt", "fallback": False})()
            return Judge.of(bundle, IdleEngine(), type("Voice", (), {"status": status})())

    line = Served(tmp_path / "line")
    answer = line.finish("reload_model", version=4)
    assert (answer["status"], answer["reason"]) == ("failed", "not_proved")
    assert answer["detail"].startswith("Only numpy could serve it, where tensorrt serves now.")
    assert line.version == 3
    line.outbox.close()
