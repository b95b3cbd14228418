"""Before a switch the shadow counts verdicts that would differ; after it the probation counts parts not judged."""

import threading
import time

import numpy as np
import pytest
from judging import MODEL, IdleEngine, judge_of
from served import wait_until

from edge_agent.engines import EngineError, Scores
from edge_agent.models.probation import Probation
from edge_agent.models.shadow import Compared, Shadow
from edge_agent.preprocess import Preprocessing

SEEN = Preprocessing(width=4, height=3)
OLD = judge_of(IdleEngine(), SEEN)
FRAME = np.zeros((3, 4, 3), np.uint8)


class Scripted:
    """Gives scores in turn, the last one for ever; an error is raised."""

    name, slots = "scripted", 1

    def __init__(self, *script):
        self._script = list(script)

    def run(self, images):
        score = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(score, Exception):
            raise score
        ramp = np.linspace(0, 0.5, 12, dtype=np.float32).reshape(1, 3, 4)
        return Scores(np.float32([score]), ramp, np.float32([1.0]))


def compare(engine, verdicts, *, parts, max_flip_rate=0.0, timeout_s=30.0, preprocessing=SEEN):
    """A shadow beside parts with these verdicts, each shown when the one before was scored."""
    new = judge_of(engine, preprocessing, model=MODEL.model_copy(update={"version": 4}))
    shadow = Shadow(new, OLD.model.digest, threshold=1.0, parts=parts, max_flip_rate=max_flip_rate)
    thread = threading.Thread(target=shadow.run, args=(timeout_s, threading.Event()))
    thread.start()
    for sequence, verdict in enumerate(verdicts):
        shadow.show(OLD, "top", sequence, FRAME)
        shadow.note("top", sequence, OLD.model.digest, verdict)
        wait_until(lambda: not shadow._verdicts)
    thread.join(30)
    assert not thread.is_alive()
    return shadow


def test_flips_are_verdicts_that_differ():
    shadow = compare(Scripted(0.5, 2.0, 2.0, 0.5), ["pass", "pass", "reject", "reject"], parts=4, max_flip_rate=0.5)
    assert shadow.compared == Compared(parts=4, flips=2)
    assert (shadow.done, shadow.failed) == (True, False)


def test_it_is_given_up_as_soon_as_it_cannot_pass():
    shadow = compare(Scripted(2.0), ["pass"] * 3, parts=100, max_flip_rate=0.02)
    assert shadow.compared == Compared(parts=3, flips=3)
    assert shadow.failed


@pytest.mark.parametrize("trouble", [EngineError("no"), ValueError("odd"), float("nan")])
def test_a_part_that_the_new_bundle_cannot_judge_is_a_flip(trouble):
    assert compare(Scripted(trouble), ["pass"], parts=1).compared == Compared(parts=1, flips=1, unknown=1)
    beyond = Preprocessing(width=4, height=3, crop=(0, 0, 100, 100))
    assert compare(Scripted(0.5), ["pass"], parts=1, preprocessing=beyond).compared.unknown == 1


def test_parts_that_the_bundle_in_service_could_not_judge_count_for_nobody():
    shadow = compare(Scripted(0.5), ["unknown", "unknown", "pass"], parts=1)
    assert shadow.compared == Compared(parts=1)


def test_only_parts_of_the_bundle_that_is_to_be_replaced_are_compared():
    new = judge_of(Scripted(0.5), SEEN)
    shadow = Shadow(new, "f" * 64, threshold=1.0, parts=1, max_flip_rate=0.0)
    shadow.show(OLD, "top", 0, FRAME)
    shadow.note("top", 0, OLD.model.digest, "pass")
    assert shadow._frames.empty()
    assert shadow.run(0.3, threading.Event()) == Compared()
    assert not shadow.done


def test_the_line_never_waits_and_nothing_piles_up():
    """Ten thousand parts beside a shadow that does nothing: what it can't take is not compared."""
    shadow = Shadow(judge_of(Scripted(0.5), SEEN), OLD.model.digest, threshold=1.0, parts=10, max_flip_rate=0.0)
    started = time.monotonic()
    for sequence in range(10_000):
        shadow.show(OLD, "top", sequence, FRAME)
        shadow.note("top", sequence, OLD.model.digest, "pass")
    assert time.monotonic() - started < 20.0
    assert shadow._frames.qsize() == len(shadow._verdicts) == 2


def test_cancelling_ends_it():
    cancelled = threading.Event()
    shadow = Shadow(judge_of(Scripted(0.5), SEEN), OLD.model.digest, threshold=1.0, parts=10, max_flip_rate=0.0)
    thread = threading.Thread(target=shadow.run, args=(600.0, cancelled))
    thread.start()
    cancelled.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize(("rate", "parts", "flips"), [(0.02, 50, 1), (0.07, 100, 7), (0.0, 9, 0), (1.0, 3, 3)])
def test_so_many_flips_are_allowed(rate, parts, flips):
    shadow = Shadow(judge_of(Scripted(0.5), SEEN), "0", threshold=1.0, parts=parts, max_flip_rate=rate)
    assert shadow.most_flips == flips


def probation(**options):
    return Probation("d", **{"parts": 10, "seconds": 60.0, "most": 2, **options})


def test_more_failures_than_allowed_end_it_badly():
    watched = probation()
    for reason in ("engine_failed", "not_finite"):
        watched.note("d", reason, True)
    assert (watched.failed, watched.over) == (False, False)
    watched.note("d", "engine_failed", True)
    assert watched.failed
    assert str(watched) == "3 of its first 3 parts could not be judged (2 engine_failed, 1 not_finite)"
    for _ in range(20):
        watched.note("d", None, True)
    assert not watched.over


def test_enough_good_parts_end_it_well():
    watched = probation()
    for _ in range(10):
        assert not watched.over
        watched.note("d", None, True)
    assert watched.over
    watched.note("d", "engine_failed", True)
    assert watched.failures.total() == 0


def test_what_is_not_the_models_fault_is_not_counted():
    watched = probation(most=0)
    watched.note("another", "engine_failed", True)
    watched.note("d", "wrong_size", False)  # the camera's own frame has another size than before
    for reason in ("paused", "no_frame", "black", "late", "overrun"):
        watched.note("d", reason, True)
    assert not watched.failed
    watched.note("d", "wrong_size", True)  # smaller than its crop
    assert watched.failed


def test_time_ends_it_too():
    now = [0.0]
    watched = probation(seconds=5.0, monotonic=lambda: now[0])
    now[0] = 4.9
    assert not watched.over
    now[0] = 5.0
    assert watched.over
