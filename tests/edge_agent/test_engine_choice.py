"""Which engine serves, and how a new one takes its place: only right ones, and the line never waits for a build."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import stand_in_engines as stand_in
from served import FAST, PLAIN, WRONG, Line, serving, wait_until
from tiny_bundle import parts, tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.engines.child import Candidate, open_candidate
from edge_agent.engines.choose import NoEngine, Proved, candidates, slower


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))


@pytest.fixture
def to_build(tmp_path):
    return Candidate("tensorrt", cache=str(tmp_path))


def test_onnx_runtime_serves_while_the_engine_is_built_and_the_switch_loses_no_part(bundle, to_build):
    with serving(bundle, [to_build], builder=stand_in.build_good) as engine:
        first = engine.status
        line, pid = Line(engine, parts(16)), engine.pid
        wait_until(lambda: engine.status.building is None and not engine.status.fallback)
        line.wait(100)
        results = line.end()
        assert engine.pid != pid
        wait_until(lambda: not Path(f"/proc/{pid}").exists())  # retired
    assert first.fallback
    assert "serves until its engine file is built: No engine file fits." in first.chosen
    assert all(result.verdict != "unknown" for result in results)
    percents = [status.building.percent for status in engine.statuses if status.building]
    assert percents == sorted(set(percents))
    assert set(percents) <= set(range(0, 101, 10))
    assert len(percents) >= 5
    assert "was built on this device, agrees with the golden set" in engine.status.chosen
    assert (engine.status.refused, engine.incidents, engine.status.restarts) == ((), [], 0)


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (stand_in.build_wrong, "disagrees with the golden set of .*: score_error is 0.5"),
        (stand_in.build_refused, "The build of tensorrt failed: TensorRT knows no operator Frobnicate"),
        (stand_in.build_killed, "The build of tensorrt broke off: its process was killed by SIGKILL; where nobody did"),
        (stand_in.build_out_of_memory, "The build of tensorrt failed: This device has not enough memory to build it"),
    ],
)
def test_a_build_that_fails_or_gives_a_wrong_engine_changes_nothing_but_the_state(bundle, to_build, builder, reason):
    with serving(bundle, [to_build], builder=builder) as engine:
        line, pid = Line(engine, parts(16)), engine.pid
        wait_until(lambda: engine.incidents)
        line.wait(20)
        results = line.end()
        assert engine.pid == pid
        assert all(result.verdict != "unknown" for result in results)
        (incident,) = engine.incidents
        assert incident.kind == "engine_refused"
        assert incident.text.startswith("tensorrt was not taken into service: ")
        assert incident.text.endswith("numpy serves on.")
        (refused,) = engine.status.refused
        assert str(refused.candidate) == "tensorrt"
        assert re.search(reason, refused.reason), refused.reason
        assert engine.status.building is None


def test_auto_takes_what_was_built_only_where_it_is_faster(bundle, to_build):
    with serving(bundle, [PLAIN, to_build], asked="auto", builder=stand_in.build_slow) as engine:
        assert not engine.status.fallback
        wait_until(lambda: engine.incidents)
        (refused,) = engine.status.refused
        assert refused.latency_ms > 20
        assert "agrees with the golden set and takes 2" in refused.reason
        assert engine.status.name == "numpy"


def test_auto_switches_to_what_was_built_where_it_is_faster(bundle, to_build):
    with serving(bundle, [PLAIN, to_build], asked="auto", builder=stand_in.build_good) as engine:
        wait_until(lambda: engine.status.building is None and "was built" in engine.status.chosen)
        assert [str(each.candidate) for each in engine.status.refused] == ["onnxruntime"]
        assert engine.status.latency_ms < 4 < engine.status.refused[0].latency_ms


def test_the_agents_end_ends_a_build_that_stepped_back_for_the_line(bundle, to_build):
    note = Path(to_build.cache) / "builder"
    with serving(bundle, [to_build], builder=stand_in.build_for_ever) as engine:
        wait_until(lambda: engine.status.building and engine.status.building.percent == 10)
        pid, niceness = map(int, note.read_text().split())
        assert niceness == 19
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 900
    assert not Path(f"/proc/{pid}").exists()


# The choice


def test_auto_takes_the_fastest_that_is_right(bundle):
    with serving(bundle, [PLAIN, FAST, WRONG], asked="auto") as engine:
        status = engine.status
        assert (status.name, status.precision, status.fallback) == ("numpy", "float32", False)
        assert status.latency_ms < 4
        reasons = {str(each.candidate): each for each in status.refused}
        assert set(reasons) == {"onnxruntime", "openvino (bfloat16)"}
        assert reasons["onnxruntime"].latency_ms > 4
        assert "disagrees with the golden set" in reasons["openvino (bfloat16)"].reason
        assert status.chosen.startswith("the fastest on this machine, ")
        assert status.chosen.endswith("of 2 that agree with the golden set (3 tried).")


def test_a_named_engine_that_cannot_serve_leaves_it_to_onnx_runtime_or_says_so(bundle):
    with serving(bundle, [WRONG]) as engine:
        assert engine.status.fallback
        assert "serves for that one can't serve here: The engine numpy disagrees" in engine.status.chosen
    with pytest.raises(NoEngine, match="disagrees with the golden set"), serving(bundle, [WRONG], fallback=False):
        pass


def test_nothing_serves_where_nothing_is_right(tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "other", model=tiny_model(threshold=120.0)))
    with pytest.raises(NoEngine) as error, serving(bundle, [Candidate("onnxruntime")], opener=open_candidate):
        pass
    assert "The engine onnxruntime disagrees with the golden set" in str(error.value)


def test_candidates_of_a_kind(monkeypatch):
    monkeypatch.setattr("edge_agent.engines.choose.installed", lambda kind: kind != "tensorrt")
    of = partial(candidates, threads=2, device=1, cache="engines")
    assert list(map(str, of("auto"))) == ["onnxruntime", "openvino (float32)", "openvino (bfloat16)", "tensorrt_rtx"]
    assert list(map(str, of("openvino"))) == ["openvino (float32)", "openvino (bfloat16)"]
    assert list(map(str, of("openvino", precision="float32"))) == ["openvino (float32)"]
    assert of("tensorrt") == [Candidate("tensorrt", device=1, cache="engines")]  # named: tried, whatever is installed
    assert of("onnxruntime") == [Candidate("onnxruntime", threads=2)]
    assert of("replay") == [Candidate("replay", threads=2)]


def test_the_sentence_says_why_the_faster_of_two_close_ones_does_not_serve():
    fast, slow = (
        Proved(FAST, SimpleNamespace(name=name, precision="float32"), None, ms)
        for name, ms in (("b", 9.9), ("a", 10.0))
    )
    assert slower(fast, slow).reason.endswith(
        "a (float32) takes 10.00 ms. Of two closer than 3 % the plainer one serves."
    )
    assert slower(slow, fast).reason.endswith("b (float32) takes 9.90 ms.")


def test_a_named_engine_is_only_the_fastest_of_its_own_precisions(bundle):
    with serving(bundle, [FAST, WRONG]) as engine:
        assert engine.status.chosen.startswith("engine.kind is openvino; the fastest precision, ")
