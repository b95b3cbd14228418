"""The hand-over to the disk: exact pixels, bounded memory, never a wait, and trouble that is said once."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from spooling import assert_whole, picture, read_rgb, verdict

from edge_agent.spool.settings import SpoolConfig
from edge_agent.spool.spool import FAREWELL_S, GRACE_S, QUEUED_FRAMES, Spool

GENEROUS_S = 30.0


@pytest.fixture
def open_spool(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    """Makes spools that keep every part, in tmp_path/spool, and closes them."""
    opened: list[Spool] = []

    def make(told: list | None = None, retry_s: float = 60.0, **changes) -> Spool:
        settings = {"folder": tmp_path / "spool", "pass_share": 1.0, "min_free_bytes": 0, "per_minute": 10_000}
        config = SpoolConfig(**{**settings, **changes})
        opened.append(Spool(config, lambda *what: (told if told is not None else []).append(what), retry_s=retry_s))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def keep(spool: Spool, number: int, image: np.ndarray, score: float = 0.5) -> None:
    result = verdict(number, score)
    spool.offer(result, result, spool.hold(image))


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GENEROUS_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (301, 203)])
def test_the_pixels_are_those_that_the_camera_gave(tmp_path, open_spool, size):
    colour, grey = picture(1, size), np.repeat(picture(2, size)[..., :1], 3, axis=2)
    spool = open_spool()
    keep(spool, 1, colour)
    keep(spool, 2, grey, score=1.5)
    spool.close()
    np.testing.assert_array_equal(read_rgb(tmp_path / "spool/dots/top/good/press-7.top.7.1.png"), colour)
    np.testing.assert_array_equal(read_rgb(tmp_path / "spool/dots/top/bad/press-7.top.7.2.png"), grey)
    lines = assert_whole(tmp_path / "spool")
    facts = lines["dots/top/bad/press-7.top.7.2.png"]
    assert (facts["verdict"], facts["image_score"], facts["model"]["digest"]) == ("reject", 1.5, "d" * 64)
    assert (facts["part"], facts["ts"]) == ("002.png", "2026-01-31T12:00:00.000000Z")
    assert spool.state[0] == 2


def test_each_view_lies_under_its_camera(tmp_path, open_spool):
    whole = verdict(1, 1.5, camera="all")
    spool = open_spool()
    for camera, score in (("top", 0.2), ("side", 1.5)):
        spool.offer(whole, verdict(1, score, camera=camera), spool.hold(picture(1)))
    spool.close()
    assert sorted(assert_whole(tmp_path / "spool")) == [
        "dots/side/bad/press-7.top.7.1.png",
        "dots/top/good/press-7.top.7.1.png",
    ]


def test_memory_is_bounded_from_the_camera_to_the_disk(open_spool):
    image = picture(1)
    spool = open_spool(memory_bytes=3 * image.nbytes)
    held = [spool.hold(image) for _ in range(5)]
    assert [each is image for each in held] == [True, True, True, False, False]
    for number, each in enumerate(held):
        spool.offer(verdict(number), verdict(number), each)
    wait(lambda: spool.state.files == 3)
    assert spool.state.dropped == 2
    unknown = verdict(9, None)
    for _ in range(10):  # what is not wanted gives its memory back
        spool.offer(unknown, unknown, spool.hold(image))
    assert all(spool.hold(image) is image for _ in range(3))
    assert spool.state.dropped == 2


def test_a_disk_that_hangs_holds_up_nobody(tmp_path, open_spool):
    folder = tmp_path / "spool" / "dots" / "top"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "frames.jsonl")  # reading it waits until someone writes: the writer hangs for good
    spool = open_spool()
    began = time.monotonic()
    for number in range(3 * QUEUED_FRAMES):
        keep(spool, number, picture(1))
    assert time.monotonic() - began < GENEROUS_S / 3
    assert spool.state.dropped >= 2 * QUEUED_FRAMES
    began = time.monotonic()
    spool.close()
    assert time.monotonic() - began < 2 * FAREWELL_S + GRACE_S + GENEROUS_S / 3
    released = os.open(folder / "frames.jsonl", os.O_RDWR)
    (folder / "frames.jsonl").unlink()
    os.close(released)


def test_the_writer_has_ended_when_the_agent_does_whatever_still_waits(open_spool, monkeypatch):
    monkeypatch.setattr("edge_agent.spool.spool.FAREWELL_S", 0.05)
    before = set(threading.enumerate())
    spool = open_spool()
    (writer,) = set(threading.enumerate()) - before
    image = picture(1, (700, 900))  # some 50 ms each: OpenCV is at work when the agent ends
    for number in range(QUEUED_FRAMES):
        keep(spool, number, image)
    spool.close()
    stored = spool.state.files
    wait(lambda: not writer.is_alive())
    assert spool.state.files <= stored + 1  # the one in hand
    assert spool.state.dropped > 0


def test_trouble_is_said_once_counted_and_over_when_it_is(tmp_path, open_spool, caplog):
    (tmp_path / "spool").write_text("no folder")
    told: list[tuple[bool, str]] = []
    spool = open_spool(told, retry_s=0.0)
    for number in range(20):
        keep(spool, number, picture(number))
    wait(lambda: spool.state.dropped == 20)
    assert [broken for broken, _ in told] == [True]
    assert "spool" in told[0][1]
    assert "Verdicts go on without it." in told[0][1]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    (tmp_path / "spool").unlink()
    keep(spool, 20, picture(20))
    wait(lambda: spool.state.files == 1)
    assert [broken for broken, _ in told] == [True, False]
    assert spool.state.dropped == 20


def test_the_last_room_on_the_disk_is_left_to_others(tmp_path, open_spool):
    told: list[tuple[bool, str]] = []
    spool = open_spool(told, min_free_bytes=2**60)
    keep(spool, 1, picture(1))
    wait(lambda: spool.state.dropped == 1)
    assert "min_free_bytes" in told[0][1]
    assert not list((tmp_path / "spool").rglob("*.png"))


def test_a_flood_is_written_at_a_limited_rate_per_kind(open_spool):
    spool = open_spool(per_minute=5)
    for number in range(20):
        keep(spool, number, picture(number), score=2.0)
    keep(spool, 20, picture(20), score=0.5)
    wait(lambda: spool.state.files == 6)
    assert spool.state.dropped == 15


def test_the_writer_gives_way_to_the_engine(open_spool):
    before = set(threading.enumerate())
    open_spool()
    (writer,) = set(threading.enumerate()) - before
    wait(lambda: os.getpriority(os.PRIO_PROCESS, writer.native_id) > os.getpriority(os.PRIO_PROCESS, 0))
