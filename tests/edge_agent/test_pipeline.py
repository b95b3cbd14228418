"""One verdict per frame, in order, whatever fails on the way; and an end, whatever stage breaks down."""

import json
import logging
import threading
import time
from collections import deque
from datetime import datetime, timezone
from functools import partial
from queue import Queue

import cv2
import numpy as np
import pytest
from judging import MODEL, judges_of, parts_of, taken_of

from edge_agent.cameras import CameraError, Frame
from edge_agent.connection import Outcome
from edge_agent.engines import EngineError, Scores
from edge_agent.engines.replay import ReplayEngine
from edge_agent.health import Tally
from edge_agent.messages import Origin, Topics
from edge_agent.outbox import Outbox, OutboxError
from edge_agent.pictures import Album, PictureError, encode_map, write_png
from edge_agent.pipeline import QUEUED_FRAMES, QUEUED_VERDICTS, deliver, inspect, score_frames, show
from edge_agent.preprocess import Preprocessing
from edge_agent.publisher import Publisher
from edge_agent.stages import Stage, StageError, run_stages, take_all, wake

SIZE = (8, 6)  # width, height
PREPROCESSING = Preprocessing(width=SIZE[0], height=SIZE[1])
ORIGIN = Origin("press-7", "top", 41, Topics("faultline", "plant", "l1", "s1", "top"), MODEL, "0.1.0")


def frame(number, image=None, **error):
    if not error and image is None:
        image = np.full((SIZE[1] * 2, SIZE[0] * 2, 3), number % 256, np.uint8)
    return Frame(f"{number}.png", datetime.now(timezone.utc), time.monotonic_ns(), image=image, **error)


class ScriptedCamera:
    """Gives what it is told to; an exception among the frames is raised in its turn."""

    name = "scripted"

    def __init__(self, script):
        self._script, self.closed, self.taken = script, threading.Event(), 0

    def frames(self):
        for item in self._script:
            if self.closed.is_set():
                return
            if isinstance(item, Exception):
                raise item
            self.taken += 1
            yield item

    def close(self):
        self.closed.set()


def scores(image_score, peak=0.5):
    anomaly_map = np.linspace(0.0, peak, SIZE[0] * SIZE[1], dtype=np.float32).reshape(1, SIZE[1], SIZE[0])
    return Scores(np.float32([image_score]), anomaly_map, np.float32([image_score * 10]))


class ScriptedEngine:
    """Answers or raises in turn; the last item is repeated."""

    name = "scripted"

    def __init__(self, *script):
        self._script = deque(script)

    def run(self, images):
        item = self._script.popleft() if len(self._script) > 1 else self._script[0]
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        pass


def judge_all(camera, engine, **options):
    """The results of a dry run."""
    given = []
    inspect(
        parts_of(camera),
        judges_of(engine, PREPROCESSING),
        ORIGIN,
        Queue(8),
        partial(show, tally=Tally(), given=given.append),
        **options,
    )
    return given


def test_each_frame_gets_one_verdict_in_order_with_its_ids():
    recorded = Scores(*(np.concatenate(parts) for parts in zip(scores(0.5), scores(1.5, peak=2.0), strict=True)))
    given = judge_all(ScriptedCamera([frame(n) for n in range(20)]), ReplayEngine(recorded))
    assert [result.sequence for result in given] == list(range(20))
    assert [result.part for result in given] == [f"{n}.png" for n in range(20)]
    assert [result.verdict for result in given] == ["pass", "reject"] * 10
    first, second = given[:2]
    assert first.result_id == "press-7.top.41.0"
    assert (second.image_score, second.raw_score, second.threshold) == (1.5, 15.0, 1.0)
    assert (second.image.width, second.image.height) == (16, 12)  # of the frame, not of the model
    assert second.regions_total == len(second.regions) == 1
    assert second.regions[0].peak == 2.0
    assert first.ts.endswith("Z")
    assert first.latency_ms > 0
    assert not first.historical


def test_the_threshold_is_what_scores_are_compared_with():
    given = judge_all(ScriptedCamera([frame(0)]), ScriptedEngine(scores(1.4)), threshold=1.5)
    assert (given[0].verdict, given[0].threshold) == ("pass", 1.5)


def test_a_frame_that_cannot_be_decoded_is_unknown_and_takes_its_number():
    bad = frame(1, error="parts/1.png is truncated.", reason="bad_frame")
    given = judge_all(ScriptedCamera([frame(0), bad, frame(2)]), ScriptedEngine(scores(0.5)))
    assert [(result.sequence, result.verdict, result.reason) for result in given] == [
        (0, "pass", None),
        (1, "unknown", "bad_frame"),
        (2, "pass", None),
    ]
    assert given[1].detail == "parts/1.png is truncated."
    assert given[1].image_score is given[1].image is None


def test_a_frame_smaller_than_the_crop_is_unknown():
    cropping, given = Preprocessing(width=8, height=6, crop=(0, 0, 100, 100)), []
    last = partial(show, tally=Tally(), given=given.append)
    inspect(
        parts_of(ScriptedCamera([frame(0)])), judges_of(ScriptedEngine(scores(0.5)), cropping), ORIGIN, Queue(8), last
    )
    assert (given[0].verdict, given[0].reason) == ("unknown", "wrong_size")
    assert "reaches beyond the frame" in given[0].detail


@pytest.mark.parametrize("error", [EngineError("It fell over."), MemoryError("no room"), ValueError("odd")])
def test_an_engine_that_raises_makes_its_parts_unknown_and_is_asked_again(caplog, error):
    engine = ScriptedEngine(scores(0.5), error, error, scores(0.5))
    with caplog.at_level(logging.ERROR):
        given = judge_all(ScriptedCamera([frame(n) for n in range(4)]), engine)
    assert [result.reason for result in given] == [None, "engine_failed", "engine_failed", None]
    assert given[1].verdict == "unknown"
    assert given[1].detail == str(error)
    assert [record.getMessage() for record in caplog.records] == [  # once for the row
        f"1.png: the engine failed: {error} Parts are unknown until it works again."
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_nonsense_of_the_engine_is_unknown_and_still_json(value):
    given = judge_all(ScriptedCamera([frame(0)]), ScriptedEngine(scores(value)))
    assert given[0].verdict == "unknown"
    assert json.loads(given[0].model_dump_json())["image_score"] is None


def test_a_busy_engine_holds_the_camera_back():
    go, camera = threading.Event(), ScriptedCamera([frame(n) for n in range(100)])

    class Waiting(ScriptedEngine):
        def run(self, images):
            reached.set()
            go.wait(30)
            return super().run(images)

    reached = threading.Event()
    thread = threading.Thread(target=judge_all, args=(camera, Waiting(scores(0.5))))
    thread.start()
    assert reached.wait(30)
    assert camera.taken <= QUEUED_FRAMES + 2  # one in the engine, one in the camera's hand
    go.set()
    thread.join(30)
    assert camera.taken == 100


def test_closing_the_camera_ends_the_run_and_loses_no_part_taken():
    camera, given = ScriptedCamera(frame(n) for n in range(10**6)), []

    def stop_after_ten(result):
        given.append(result)
        if len(given) == 10:
            camera.close()

    inspect(
        parts_of(camera),
        judges_of(ScriptedEngine(scores(0.5)), PREPROCESSING),
        ORIGIN,
        Queue(8),
        partial(show, tally=Tally(), given=stop_after_ten),
    )
    assert len(given) == camera.taken


def test_a_camera_that_breaks_down_ends_the_run_with_its_sentence_after_all_earlier_parts():
    given = []
    camera = ScriptedCamera([*(frame(n) for n in range(10)), CameraError("parts holds no images any more.")])
    with pytest.raises(StageError, match=r"The camera stage broke down: parts holds no images any more\."):
        inspect(
            parts_of(camera),
            judges_of(ScriptedEngine(scores(0.5)), PREPROCESSING),
            ORIGIN,
            Queue(8),
            partial(show, tally=Tally(), given=given.append),
        )
    assert len(given) == 10


@pytest.mark.parametrize("broken", [0, 1, 2, 3])
@pytest.mark.parametrize("after", [0, 3, 500])
def test_whatever_stage_breaks_the_others_finish(broken, after):
    """Four stages that pass numbers on through queues of one; one raises, at once, in the middle, or after the end."""
    queues = [Queue(1) for _ in range(3)]
    stopped, received = threading.Event(), []

    def first():
        for n in range(100):
            if stopped.is_set():
                break
            if broken == 0 and n == after:
                raise OSError("gone")
            queues[0].put(n)
        queues[0].put(None)
        if broken == 0 and after == 500:
            raise OSError("gone")

    def middle(index):
        count = 0
        while (item := queues[index - 1].get()) is not None:
            if broken == index and count == after:
                raise OSError("gone")
            count += 1
            if index < 3:
                queues[index].put(item)
            else:
                received.append(item)
        if broken == index and after == 500:
            raise OSError("gone")
        if index < 3:
            queues[index].put(None)

    stages = [Stage("s0", first, None, queues[0])]
    stages += [Stage(f"s{i}", partial(middle, i), queues[i - 1], queues[i] if i < 3 else None) for i in (1, 2, 3)]
    with pytest.raises(StageError, match=f"The s{broken} stage broke down: OSError: gone"):
        run_stages(stages, stop=stopped.set)
    assert stopped.is_set()
    assert received == list(range(len(received)))


def test_wake_never_blocks_and_take_all_takes_all():
    queue = Queue(2)
    for _ in range(5):
        wake(queue)
    assert len(take_all(queue, 1.0)) == 2
    assert take_all(queue, 0.0) == []


class Broker:
    session = None
    outcome = Outcome("unreachable", "It is a fake.")


def run_to_outbox(folder, camera, engine, *, given=None, max_rows=1000, **options):
    """A run without a broker; the outbox it leaves behind."""
    outbox = Outbox(folder / "outbox.db", max_rows=max_rows, max_bytes=10**8)
    last = partial(
        deliver,
        publisher=Publisher(outbox, Broker(), ORIGIN),
        origin=ORIGIN,
        tally=Tally(),
        given=given or (lambda result: None),
        health_interval_s=0.001,
        drain_timeout_s=0.0,
        stopping=threading.Event(),
    )
    try:
        inspect(parts_of(camera), judges_of(engine, PREPROCESSING), ORIGIN, Queue(QUEUED_VERDICTS), last, **options)
    finally:
        outbox.close()
    return Outbox(folder / "outbox.db", max_rows=max_rows, max_bytes=10**8)


def test_a_verdict_is_on_disk_when_it_is_given(tmp_path):
    import sqlite3

    outbox_path, stored = tmp_path / "outbox.db", []

    def count(result):
        # the agent locks its database, so look at the bytes: the payload is in the file or in its log
        files = [path.read_bytes() for path in (outbox_path, outbox_path.with_name("outbox.db-wal")) if path.exists()]
        stored.append(any(result.result_id.encode() in data for data in files))

    outbox = run_to_outbox(
        tmp_path, ScriptedCamera([frame(n) for n in range(30)]), ScriptedEngine(scores(0.5)), given=count
    )
    assert stored == [True] * 30
    assert [json.loads(row.payload)["sequence"] for row in outbox.read(after=0, limit=100)] == list(range(30))
    outbox.close()
    assert sqlite3.connect(outbox_path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_rejects_come_with_their_anomaly_map_linked_by_id(tmp_path):
    engine = ScriptedEngine(scores(0.5), scores(1.5, peak=2.0), scores(0.5))
    outbox = run_to_outbox(tmp_path, ScriptedCamera([frame(n) for n in range(3)]), engine)
    rows = outbox.read(after=0, limit=100)
    assert [row.kind for row in rows] == ["result", "result", "image", "result"]
    assert rows[2].topic == "faultline/v1/plant/l1/s1/top/anomaly_map/press-7.top.41.1"
    grey = cv2.imdecode(np.frombuffer(rows[2].payload, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(grey, 100 * scores(1.5, peak=2.0).anomaly_map[0], atol=0.51)
    outbox.close()


def test_maps_can_be_left_out(tmp_path):
    engine = ScriptedEngine(scores(1.5, peak=2.0))
    outbox = run_to_outbox(tmp_path, ScriptedCamera([frame(0)]), engine, publish_maps=False)
    assert [row.kind for row in outbox.read(after=0, limit=100)] == ["result"]
    outbox.close()


def test_an_outbox_that_fails_ends_the_run_with_its_sentence(tmp_path, monkeypatch):
    camera = ScriptedCamera(frame(n) for n in range(10**6))
    real, commits = Outbox.commit, []

    def commit(self, *arguments, **options):
        commits.append(1)
        if len(commits) > 3:
            raise OutboxError("The outbox outbox.db can't keep verdicts: the disk is full.")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Outbox, "commit", commit)
    with pytest.raises(StageError, match=r"The delivery stage broke down: The outbox outbox\.db can't keep verdicts"):
        run_to_outbox(tmp_path, camera, ScriptedEngine(scores(0.5)))
    assert camera.closed.is_set()


def test_pictures_of_rejects_are_saved_and_the_newest_kept(tmp_path):
    album = Album(tmp_path / "rejects", keep=3)
    engine = ScriptedEngine(scores(1.5, peak=2.0))
    judge_all(ScriptedCamera([frame(n) for n in range(5)]), engine, album=album)
    names = sorted(path.name for path in (tmp_path / "rejects").iterdir())
    assert names == [f"press-7.top.41.{n}.png" for n in (2, 3, 4)]
    picture = cv2.imread(str(tmp_path / "rejects" / names[0]))
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    again = Album(tmp_path / "rejects", keep=3)  # after a restart
    again.add("press-7.top.42.0", np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.float32))
    assert sorted(path.name for path in (tmp_path / "rejects").iterdir())[0] == "press-7.top.41.3.png"


def test_verdicts_go_on_when_pictures_cannot_be_saved(tmp_path, caplog):
    album = Album(tmp_path / "rejects", keep=3)
    (tmp_path / "rejects").rmdir()
    engine = ScriptedEngine(scores(1.5, peak=2.0))
    given = judge_all(ScriptedCamera([frame(n) for n in range(5)]), engine, album=album)
    assert [result.verdict for result in given] == ["reject"] * 5
    assert len(caplog.records) == 1
    assert "can't be written (No such file or directory)" in caplog.text


def test_a_picture_is_whole_or_absent_and_can_be_kept_from_overwriting(tmp_path):
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    write_png(tmp_path / "a.png", image, keep=True)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], image)
    with pytest.raises(PictureError, match=r"a\.png exists already and is not overwritten"):
        write_png(tmp_path / "a.png", image, keep=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]  # nothing half-written beside it


def test_the_map_for_machines_says_where_the_threshold_is():
    grey = cv2.imdecode(np.frombuffer(encode_map(np.float32([[0, 0.5, 1.0, 9.0]])), np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey.tolist() == [[0, 50, 100, 255]]


class SlottedEngine(ScriptedEngine):
    """Two slots; `told` is what was asked of it, in turn."""

    slots = 2

    def __init__(self, *script):
        super().__init__(*script)
        self.told, self._number = [], 0

    def submit(self, images):
        self._number += 1
        self.told.append(f"submit {self._number}")
        return self._number

    def collect(self, ticket):
        self.told.append(f"collect {ticket}")
        return self.run(None)


def test_the_next_part_is_submitted_before_the_answer_to_this_one_and_order_is_kept():
    engine = SlottedEngine(scores(0.5), EngineError("It fell over."), scores(1.5, peak=2.0))
    bad = frame(2, error="no", reason="bad_frame")
    taken, scored, judges = Queue(), Queue(), judges_of(engine, PREPROCESSING)
    for sequence, each in enumerate([frame(0), frame(1), bad, frame(3), frame(4)]):
        taken.put(taken_of(sequence, each, judges.take(None, "top")))
    taken.put(None)
    score_frames(taken, scored, judges)
    assert engine.told == [
        *("submit 1", "submit 2", "collect 1", "collect 2"),  # the bad frame stands in the second slot's place
        *("submit 3", "submit 4", "collect 3", "collect 4"),
    ]
    answers = list(iter(scored.get, None))
    assert [(each.taken.part.sequence, each.scores is not None, each.reason) for each in answers] == [
        (0, True, None),
        (1, False, "engine_failed"),
        (2, False, "bad_frame"),
        (3, True, None),
        (4, True, None),
    ]


def test_an_answer_never_waits_for_the_next_part():
    engine, first, given = SlottedEngine(scores(0.5)), threading.Event(), []

    def slowly():
        yield frame(0)
        assert first.wait(30)  # the camera gives the second part only after the verdict on the first
        yield frame(1)

    def give(result):
        given.append(result)
        first.set()

    last = partial(show, tally=Tally(), given=give)
    inspect(parts_of(ScriptedCamera(slowly())), judges_of(engine, PREPROCESSING), ORIGIN, Queue(8), last)
    assert len(given) == 2
    assert engine.told == ["submit 1", "collect 1", "submit 2", "collect 2"]


def test_an_engine_that_takes_no_part_makes_it_unknown():
    class Refusing(SlottedEngine):
        def submit(self, images):
            raise EngineError("No room.")

    given = judge_all(ScriptedCamera([frame(0), frame(1)]), Refusing(scores(0.5)))
    assert [(result.reason, result.detail) for result in given] == [("engine_failed", "No room.")] * 2
