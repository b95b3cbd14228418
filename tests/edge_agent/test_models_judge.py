"""Judges change between two parts: each part is prepared, scored and named by one, and none is closed too early."""

import threading
from datetime import datetime, timezone
from functools import partial
from queue import Queue

import numpy as np
import pytest
from judging import MODEL, IdleEngine, judge_of, judges_of, parts_of, taken_of
from served import ORIGIN, wait_until

from edge_agent.cameras import Frame
from edge_agent.engines import Scores
from edge_agent.health import Tally
from edge_agent.models.judge import Judge, UnknownProduct
from edge_agent.pipeline import inspect, score_frames, show
from edge_agent.preprocess import Preprocessing

WIDE = Preprocessing(width=4, height=3)
CROPPED = Preprocessing(width=4, height=3, crop=(4, 0, 4, 3))


class Counting:
    """Two slots; says how many parts are with it, and minds being closed while there are any."""

    slots = 2

    def __init__(self, name, score=0.5):
        self.name, self.closed, self.most, self._out, self._score = name, False, 0, {}, score

    def submit(self, images):
        assert not self.closed
        ticket = len(self._out)
        while ticket in self._out:
            ticket += 1
        self._out[ticket] = images.copy()
        self.most = max(self.most, len(self._out))
        return ticket

    def collect(self, ticket):
        assert not self.closed
        mean = float(self._out.pop(ticket).mean())
        ramp = np.linspace(0, 0.5, 12, dtype=np.float32).reshape(1, 3, 4)
        return Scores(np.float32([self._score]), ramp, np.float32([mean]))

    def close(self):
        assert not self._out, "closed with parts in its hands"
        self.closed = True


def a_frame(number):
    image = np.zeros((3, 8, 3), np.uint8)
    image[:, 4:] = 100  # what a crop of the right half sees
    return Frame(f"{number}.png", datetime.now(timezone.utc), 1, image=image)


def test_a_part_keeps_the_judge_it_was_taken_by():
    old, new = Counting("old"), Counting("new", score=2.0)
    judges = judges_of(old, WIDE)
    taken, scored = Queue(), Queue()
    newer = judge_of(new, CROPPED, model=MODEL.model_copy(update={"version": 4}))
    for number in range(4):
        if number == 2:
            judges.switch(None, "top", newer)
        taken.put(taken_of(number, a_frame(number), judges.take(None, "top")))
    taken.put(None)
    assert not old.closed  # its two parts wait in the queue
    score_frames(taken, scored, judges)
    answers = list(iter(scored.get, None))
    assert [each.taken.part.sequence for each in answers] == [0, 1, 2, 3]
    assert [float(each.scores.raw_score[0]) for each in answers] == [50.0, 50.0, 100.0, 100.0]
    assert [each.taken.judge.model.version for each in answers] == [3, 3, 4, 4]
    wait_until(lambda: old.closed)
    assert not new.closed
    judges.close()
    assert new.closed


def test_verdicts_stay_in_order_over_any_mix_of_engines_and_none_gets_more_than_its_slots():
    engines = [Counting("a"), Counting("b"), Counting("c")]
    judges = judges_of(engines[0], WIDE)
    for product, engine in zip("bc", engines[1:], strict=True):
        judges.switch(product, "top", judge_of(engine, WIDE))
    taken, scored = Queue(), Queue()
    products = np.random.default_rng(0).choice([None, "b", "c"], 200)
    for number, product in enumerate(products):
        taken.put(taken_of(number, a_frame(number), judges.take(product, "top")))
    taken.put(None)
    score_frames(taken, scored, judges)
    assert [each.taken.part.sequence for each in iter(scored.get, None)] == list(range(200))
    assert all(engine.most <= engine.slots for engine in engines)
    judges.close()


def test_an_engine_that_several_share_ends_with_the_last_of_them():
    engine, other = IdleEngine(), IdleEngine()
    judges = judges_of(engine, WIDE)
    judges.switch(None, "side", judges.in_service(None, "top"))
    judges.switch(None, "top", judge_of(other, WIDE))
    assert not engine.closed
    held = judges.take(None, "side")
    judges.switch(None, "side", judges.in_service(None, "top"))
    assert not engine.closed
    judges.release(held)
    wait_until(lambda: engine.closed)
    assert not other.closed


def test_a_judge_that_comes_back_before_its_engine_was_idle_serves_on():
    engine, other = IdleEngine(), IdleEngine()
    judges = judges_of(engine, WIDE)
    old = judges.take(None, "top")
    judges.switch(None, "top", judge_of(other, WIDE))
    judges.switch(None, "top", old)
    judges.release(old)
    wait_until(lambda: other.closed)
    assert not engine.closed
    judges.close()
    assert engine.closed


def test_an_unknown_product_is_named():
    judges = judges_of(IdleEngine(), WIDE)
    with pytest.raises(UnknownProduct, match="No bundle judges the product bolts under the camera top"):
        judges.take("bolts", "top")


def test_another_crop_is_the_same_judge_on_the_same_engine(tmp_path):
    from tiny_bundle import write_bundle

    from edge_agent.bundle import open_bundle

    judge = Judge.of(open_bundle(write_bundle(tmp_path / "bundle")), IdleEngine())
    moved = judge.looking_at((1, 2, 16, 12))
    assert moved.engine is judge.engine
    assert (moved.roi, moved.preprocessing.crop) == ((1, 2, 16, 12), (1, 2, 16, 12))
    assert moved.looking_at(None).preprocessing == judge.preprocessing


def test_switching_while_a_line_runs_leaves_no_part_without_its_one_verdict():
    """A thousand parts, a hundred switches at any moment: verdicts in order, each from an engine that was open."""
    judges, given, ended = judges_of(Counting("0"), WIDE), [], threading.Event()

    class Camera:
        name = "top"

        def frames(self):
            yield from (a_frame(number) for number in range(1000))
            ended.set()

        def close(self):
            pass

    def keep_switching():
        number = 0
        while not ended.wait(0.002):
            number += 1
            model = MODEL.model_copy(update={"version": number})
            judges.switch(None, "top", judge_of(Counting(str(number)), WIDE, model=model))

    thread = threading.Thread(target=keep_switching)
    thread.start()
    inspect(parts_of(Camera()), judges, ORIGIN, Queue(8), partial(show, tally=Tally(), given=given.append))
    thread.join(30)
    judges.close()
    assert [result.sequence for result in given] == list(range(1000))
    assert {result.verdict for result in given} == {"pass"}
    versions = [result.model.version for result in given]
    assert len(set(versions)) > 3
