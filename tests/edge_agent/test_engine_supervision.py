"""Engines die, hang and talk nonsense while parts come: every part gets one verdict, and what is known is right."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import stand_in_engines as stand_in
from served import FAST, Line, serving, wait_until
from stand_in_engines import marked, open_unless_gone
from tiny_bundle import golden_arrays, parts, tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError, supervise
from edge_agent.engines.child import Candidate, open_candidate


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))


def test_kills_of_a_real_engine_cost_the_parts_in_flight_and_the_new_process_scores_the_rest(bundle):
    with serving(bundle, [Candidate("onnxruntime", threads=1)], opener=open_candidate, wait_s=30.0) as engine:
        line, killed = Line(engine, parts(16), interval_s=0.0), set()
        for _ in range(2):
            line.wait(200)
            killed.add(engine.pid)
            os.kill(engine.pid, signal.SIGKILL)
            wait_until(lambda: engine.pid not in {None, *killed})
        line.wait(200)
        results = line.end()
        unknown = [result for result in results if result.verdict == "unknown"]
        assert len(unknown) <= 2 * engine.slots
        assert {result.reason for result in unknown} <= {"engine_failed"}
        assert all("was killed by SIGKILL" in result.detail for result in unknown)
        assert [incident.kind for incident in engine.incidents] == ["engine_failed"] * 2
        assert (engine.status.restarts, engine.status.condition, engine.status.fallback) == (2, "serving", False)


@pytest.mark.parametrize("mark", [stand_in.KILL, stand_in.SEGFAULT, stand_in.HANG, stand_in.LOST])
def test_a_part_that_kills_the_engine_is_unknown_and_so_is_at_most_the_next(bundle, mark):
    images = marked(parts(40), 20, mark)
    with serving(bundle, [FAST], wait_s=30.0) as engine:
        line = Line(engine, images)
        wait_until(lambda: engine.status.restarts == 1)
        line.wait(5)
        line.close()
        results = line.end()
        assert 60 >= len(results) > 22 or mark != stand_in.HANG  # slow ones don't come round to it again
        unknown = [result.sequence for result in results[:40] if result.verdict == "unknown"]
        assert unknown in ([20], [20, 21])
        assert results[20].reason == "engine_failed"


def test_nonsense_is_unknown_and_costs_the_process_but_no_other_part(bundle):
    images = marked(parts(40), 20, stand_in.NAN)
    with serving(bundle, [FAST]) as engine:
        line, pid = Line(engine, images), engine.pid
        wait_until(lambda: engine.status.restarts == 1)
        line.wait(100)
        results = line.end()
        assert engine.pid != pid
        assert {result.sequence % 40 for result in results if result.verdict == "unknown"} == {20}
        assert results[20].reason == "not_finite"
        assert engine.status.restarts == 1  # not one for each: a covered lens must not keep starting processes


@pytest.mark.parametrize(("mark", "reason"), [(stand_in.CONSTANT, "constant_map"), (stand_in.FAIL, "engine_failed")])
def test_a_constant_map_and_a_failure_recycle_the_process_too(bundle, mark, reason):
    with serving(bundle, [FAST]) as engine:
        line = Line(engine, marked(parts(40), 20, mark))
        wait_until(lambda: engine.status.restarts == 1)
        line.wait(10)
        assert line.end()[20].reason == reason
        assert engine.incidents == []


def test_a_death_between_two_parts_costs_none(bundle):
    with serving(bundle, [FAST]) as engine:
        pid = engine.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine.status.restarts == 1)
        assert engine.incidents[0].text.startswith("numpy (float32): The engine's process was killed by SIGKILL")
        assert engine.status.latency_ms == engine.statuses[0].latency_ms  # that of the choice, for its sentence
        os.kill(engine.pid, signal.SIGKILL)
        time.sleep(0.05)  # gone, but perhaps not noticed yet
        images = parts(2)
        np.testing.assert_allclose(engine.run(images[:1]).raw_score, golden_arrays(images[:1])["raw_score"])
        assert "Parts in flight, now unknown: 0. A new one is being started." in engine.incidents[0].text


def test_what_dies_again_and_again_makes_room_for_onnx_runtime_and_gets_another_chance_later(bundle, monkeypatch):
    monkeypatch.setattr(supervise, "BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr(supervise, "RETRY_S", 1.0)
    with serving(bundle, [FAST], wait_s=30.0) as engine:
        for _ in range(3):
            assert engine.status.precision == "float32"
            with pytest.raises(EngineError):
                engine.run(marked(parts(1), 0, stand_in.KILL))
        engine.run(parts(1))
        assert engine.status.fallback
        assert engine.status.chosen.startswith(
            "openvino (float32) can't serve any more: It died 3 times in a minute. The engine's process was killed by"
        )
        assert engine.status.chosen.endswith("numpy (float32) serves instead.")
        assert [incident.kind for incident in engine.incidents] == ["engine_failed"] * 3 + ["engine_refused"]
        wait_until(lambda: not engine.status.fallback)
        assert engine.status.chosen == "numpy (float32) is what was asked for, and serves again."
        assert engine.status.refused == ()
        engine.run(parts(1))


def test_what_does_not_start_again_is_replaced_by_onnx_runtime(bundle):
    with serving(bundle, [FAST], opener=open_unless_gone) as engine:
        (bundle.folder.parent / "gone").touch()
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: engine.status.fallback)
        engine.run(parts(1))
        assert [(str(each.candidate), each.reason) for each in engine.status.refused] == [
            ("openvino (float32)", "The device is gone.")
        ]


def failure(engine) -> str:
    with pytest.raises(EngineError, match="No engine serves: ") as error:
        engine.run(parts(1))
    return str(error.value)


def test_a_bundle_that_vanishes_from_the_disk_leaves_the_keeper_at_work(bundle, monkeypatch):
    monkeypatch.setattr(supervise, "BACKOFF_MIN_S", 0.05)
    with serving(bundle, [FAST], wait_s=0.0) as engine:
        away = bundle.folder.rename(bundle.folder.parent / "away")
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: engine.pid is None)
        wait_until(lambda: "bundle is not a folder" in failure(engine))
        away.rename(bundle.folder)
        wait_until(lambda: engine.pid is not None)
        assert engine.run(parts(1)).image_score.shape == (1,)
        assert (engine.status.restarts, engine.status.condition) == (1, "serving")


def test_images_of_another_size_leave_no_ticket_behind(bundle):
    with serving(bundle, [FAST]) as engine:
        with pytest.raises(EngineError, match=r"The engine was given uint8 \[1, 16, 12, 3\]"):
            engine.submit(np.zeros((1, 16, 12, 3), np.uint8))
        pid = engine.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine.pid not in (None, pid))
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_without_a_fallback_parts_wait_a_little_then_are_unknown_until_it_serves_again(bundle, monkeypatch):
    monkeypatch.setattr(supervise, "BACKOFF_MIN_S", 0.05)
    gone = bundle.folder.parent / "gone"
    with serving(bundle, [FAST], opener=open_unless_gone, fallback=False, wait_s=0.5) as engine:
        gone.touch()
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: engine.pid is None)
        started = time.monotonic()
        with pytest.raises(EngineError, match="No engine serves: .* A new one is being started"):
            engine.run(parts(1))
        waited = time.monotonic() - started
        started = time.monotonic()
        with pytest.raises(EngineError, match="No engine serves"):
            engine.run(parts(1))
        assert waited < 0.6
        assert time.monotonic() - started < 0.1  # the wait is the engine's, not each part's
        assert engine.status.condition == "restarting"
        gone.unlink()
        wait_until(lambda: engine.pid is not None)
        engine.run(parts(1))
        assert engine.status.condition == "serving"


def test_closing_ends_every_process(bundle):
    with serving(bundle, [FAST]) as engine:
        pid = engine.pid
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(EngineError, match="No engine serves"):
        engine.run(parts(1))


def test_what_was_built_while_a_new_process_started_stays(bundle, tmp_path):
    to_build = Candidate("tensorrt", cache=str(tmp_path))
    with serving(
        bundle, [to_build], opener=stand_in.open_late_again, builder=stand_in.build_good, wait_s=30.0
    ) as engine:
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: "was built on this device" in engine.status.chosen)
        pid = engine.pid
        time.sleep(4.0)  # until the process of the former engine has started as well
        assert (engine.pid, engine.status.fallback) == (pid, False)
