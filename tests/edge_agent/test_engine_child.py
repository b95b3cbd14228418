"""An engine in a process of its own answers as the engine itself does, and its end is an error, never ours."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import stand_in_engines as stand_in
from line import ROOT, running
from stand_in_engines import marked, open_stand_in
from tiny_bundle import SIZE, golden_arrays, parts, tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineDied, EngineError, EngineNotBuilt, open_engine
from edge_agent.engines.child import ANSWER, REQUEST, SCORED, Candidate, ChildEngine, _score
from edge_agent.engines.golden import check_golden
from edge_agent.engines.ring import Ring

SHARED, FDS = Path("/dev/shm"), Path("/proc/self/fd")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("child") / "bundle", model=tiny_model()))


@pytest.fixture
def child(bundle):
    """The stand-in's process; for engines that are killed."""
    engine = ChildEngine(bundle, Candidate("openvino", "float32"), opener=open_stand_in, timeout_s=1.0)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def real(bundle):
    engine = ChildEngine(bundle, Candidate("onnxruntime", threads=1))
    yield engine
    engine.close()


def assert_scores(scores, images):
    for name, right in golden_arrays(images).items():
        if name != "images":
            np.testing.assert_allclose(getattr(scores, name), right, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_answers_are_those_of_the_engine_itself(bundle, real, n):
    images = parts(n, seed=n)
    for found, right in zip(real.run(images), open_engine(bundle, threads=1).run(images), strict=True):
        np.testing.assert_array_equal(found, right)
    assert (real.name, real.precision, real.size) == ("onnxruntime", "float32", SIZE)
    assert check_golden(real, bundle).verdict_flips == 0


def test_answers_are_the_callers_to_keep(real):
    first = real.run(parts(1, seed=1))
    kept = first.anomaly_map.copy()
    for seed in range(5):
        real.run(parts(1, seed=seed))
    np.testing.assert_array_equal(first.anomaly_map, kept)


def test_two_slots_in_any_order_and_no_third(real):
    images = parts(3)
    tickets = [real.submit(images[at : at + 1]) for at in range(2)]
    with pytest.raises(EngineError, match=r"1 images for a slot of 1, 0 of 2 slots free\. Collect an answer before"):
        real.submit(images[2:])
    assert_scores(real.collect(tickets[1]), images[1:2])
    assert_scores(real.collect(tickets[0]), images[:1])
    with pytest.raises(EngineError, match="is not out"):
        real.collect(tickets[0])


def test_an_engine_with_slots_works_behind_the_ring(bundle):
    engine = ChildEngine(bundle, Candidate("tensorrt"), opener=stand_in.open_slotted, slots=3)
    images = parts(9)
    assert_scores(engine.run(images), images)
    engine.close()


class ScriptedPipe:
    """Hands over requests in groups: those of a group wait together, the next group comes when all is answered."""

    def __init__(self, *groups):
        self._groups, self._waiting, self.answers = deque(groups), deque(), []

    def poll(self, seconds):
        return bool(self._waiting)

    def recv_bytes(self):
        if not self._waiting:
            if not self._groups:
                raise EOFError
            self._waiting.extend(self._groups.popleft())
        return REQUEST.pack(*self._waiting.popleft())

    def send_bytes(self, message):
        self.answers.append(ANSWER.unpack_from(message))


def test_the_child_begins_what_waits_and_holds_no_answer_back():
    ring, engine = Ring.make(4, 1, SIZE), stand_in.SlottedEngine()
    pipe = ScriptedPipe([(1, 0, 1)], [(2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 0, 1)])
    _score(pipe, engine, ring)
    assert engine.told == [
        *("submit 0", "collect 0"),  # nothing else waits
        *("submit 1", "submit 2", "submit 3"),  # all its slots, before the first answer
        *("collect 1", "submit 4", "collect 2", "collect 3", "collect 4"),
    ]
    assert pipe.answers == [(ticket, SCORED) for ticket in range(1, 6)]
    ring.close()


def test_wrong_images_and_a_batch_that_fails_cost_nothing_else(child):
    with pytest.raises(EngineError, match=r"The engine was given uint8 \[1, 16, 12, 3\]"):
        child.run(np.zeros((1, 16, 12, 3), np.uint8))
    pid = child.pid
    with pytest.raises(EngineError, match=r"This one was too much\."):
        child.run(marked(parts(3), 1, stand_in.FAIL))
    assert_scores(child.run(parts(3)), parts(3))
    assert (child.pid, child.alive) == (pid, True)


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (stand_in.KILL, "The engine's process was killed by SIGKILL; where nobody did that, the system had run out of"),
        (stand_in.SEGFAULT, "The engine's process was killed by SIGSEGV, a fault in native code"),
        (stand_in.LOST, "The GPU fell off the bus."),
        (stand_in.HANG, "The engine's process gave no answer within 1 s and was killed."),
        (stand_in.HANG_WITH_THE_LOCK, "The engine's process gave no answer within 1 s and was killed."),
    ],
)
def test_the_end_of_the_process_is_the_end_of_what_is_in_flight(child, mark, text):
    images = marked(parts(2), 0, mark)
    tickets = [child.submit(images[at : at + 1]) for at in range(2)]
    for ticket in tickets:
        with pytest.raises(EngineDied) as error:
            child.collect(ticket)
        assert str(error.value).startswith(text)
    assert not child.alive
    with pytest.raises(EngineDied):
        child.run(parts(1))
    assert not Path(f"/proc/{child.pid}").exists()


def test_answers_given_before_a_death_are_answers(child):
    images = marked(parts(2), 1, stand_in.KILL)
    first, second = (child.submit(images[at : at + 1]) for at in range(2))
    assert_scores(child.collect(first), images[:1])
    with pytest.raises(EngineDied):
        child.collect(second)


@pytest.mark.parametrize(
    ("opener", "kind", "error", "text"),
    [
        (stand_in.open_stand_in, "tensorrt", EngineNotBuilt, "No engine file fits"),
        (
            stand_in.open_and_die,
            "tensorrt",
            EngineError,
            "While it opened the engine, its process was killed by SIGKILL;",
        ),
        (stand_in.open_with_a_surprise, "tensorrt", EngineError, "The engine broke down: RuntimeError: odd"),
        (stand_in.open_never, "tensorrt", EngineError, "did not open it within 2 s and was killed"),
    ],
)
def test_an_engine_that_does_not_open_says_why(bundle, tmp_path, opener, kind, error, text):
    limit_s = 2.0 if opener is stand_in.open_never else 60.0
    with pytest.raises(error, match=text):
        ChildEngine(bundle, Candidate(kind, cache=str(tmp_path)), opener=opener, start_timeout_s=limit_s)


def test_a_start_can_be_given_up(bundle):
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    with pytest.raises(EngineError, match="given up"):
        ChildEngine(bundle, Candidate("tensorrt"), opener=stand_in.open_never, cancelled=cancelled)


def test_a_bundle_that_changed_since_is_refused(tmp_path):
    opened = open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))
    write_bundle(tmp_path / "bundle", model=tiny_model(), version=4)
    with pytest.raises(EngineError, match="is not the bundle any more that the agent opened"):
        ChildEngine(opened, Candidate("onnxruntime"))


def test_a_closed_engine_says_so_and_leaves_nothing(bundle):
    before = set(SHARED.iterdir()), len(list(FDS.iterdir()))
    engine = ChildEngine(bundle, Candidate("openvino", "float32"), opener=open_stand_in)
    engine.run(parts(1))
    pid = engine.pid
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="The engine was closed"):
        engine.run(parts(1))
    assert not Path(f"/proc/{pid}").exists()
    assert before == (set(SHARED.iterdir()), len(list(FDS.iterdir())))


PARENT = """
import sys, time
from pathlib import Path
from stand_in_engines import open_stand_in, marked
from tiny_bundle import parts
from edge_agent.bundle import open_bundle
from edge_agent.engines.child import ANSWER, REQUEST, SCORED, Candidate, ChildEngine, _score

engine = ChildEngine(open_bundle(Path(sys.argv[1])), Candidate("openvino", "float32"), opener=open_stand_in)
engine.run(parts(1))
if sys.argv[2] != "0":
    engine.submit(marked(parts(1), 0, int(sys.argv[2])))
time.sleep(0.3)
print(engine.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("doing", [0, stand_in.HANG, stand_in.HANG_WITH_THE_LOCK])
def test_a_killed_parent_takes_the_child_with_it_whatever_it_does(bundle, doing):
    before = set(SHARED.iterdir())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(bundle.folder), str(doing)], stdout=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "edge_agent")])},
    )  # fmt: skip
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert set(SHARED.iterdir()) == before


def test_the_child_ignores_what_a_terminal_sends_to_the_whole_group(child):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, number)
    assert_scores(child.run(parts(2)), parts(2))
