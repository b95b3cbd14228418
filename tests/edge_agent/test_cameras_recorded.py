"""Cameras: every file and every frame comes once and in order, and what is broken says so."""

import errno
import os
import threading
import time
from datetime import timedelta, timezone
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.cameras import CameraError, FolderCamera, Frame, VideoFileCamera


def write_part(path: Path, brightness: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((6, 8, 3), (brightness, 0, 2 * brightness), np.uint8))  # BGR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Parts b, a/c and a/d of different brightness, among files that are no parts."""
    folder = tmp_path / "line"
    write_part(folder / "b.png", 10)
    write_part(folder / "a" / "d.bmp", 30)
    write_part(folder / "a" / "c.PNG", 20)
    (folder / "notes.txt").write_text("shift 2")
    (folder / ".hidden.png").write_text("half copied")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, each of another red, and noisy in green so that each takes some room."""
    path = tmp_path_factory.mktemp("video") / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for i in range(12):
        frame = np.full((48, 64, 3), (0, 0, 20 * i), np.uint8)  # BGR
        frame[:24, :, 1] = noise.integers(0, 256, (24, 64))
        writer.write(frame)
    writer.release()
    return path


def names(frames) -> list[str]:
    return [frame.name for frame in frames]


def test_folder_gives_every_part_once_in_order_in_rgb(folder):
    frames = list(FolderCamera(folder).frames())
    assert names(frames) == ["a/c.PNG", "a/d.bmp", "b.png"]
    assert [frame.image[0, 0].tolist() for frame in frames] == [[40, 0, 20], [60, 0, 30], [20, 0, 10]]
    assert all(frame.error is None and frame.reason is None for frame in frames)


def test_frames_carry_utc_and_a_clock_that_never_goes_back(folder):
    before = time.monotonic_ns()
    frames = list(FolderCamera(folder, loop=5).frames())
    assert all(frame.captured_at.tzinfo == timezone.utc for frame in frames)
    clock = [before, *(frame.ts_mono_ns for frame in frames), time.monotonic_ns()]
    assert clock == sorted(clock)
    assert frames[-1].captured_at - frames[0].captured_at < timedelta(minutes=1)


@pytest.mark.parametrize(("loop", "rounds"), [(1, 1), (3, 3), (False, 1)])
def test_folder_goes_round_as_often_as_asked(folder, loop, rounds):
    assert names(FolderCamera(folder, loop=loop).frames()) == ["a/c.PNG", "a/d.bmp", "b.png"] * rounds


@pytest.mark.parametrize("loop", [0, True])
def test_folder_goes_round_for_ever(folder, loop):
    assert names(islice(FolderCamera(folder, loop=loop).frames(), 40))[-1] == "a/c.PNG"


@pytest.mark.parametrize("camera", [FolderCamera, VideoFileCamera])
def test_negative_loop_is_refused(camera, folder, video):
    with pytest.raises(CameraError, match="loop is -1; give the number of rounds, or 0"):
        camera(folder if camera is FolderCamera else video, loop=-1)


def test_unreadable_part_is_a_frame_with_an_error(folder):
    """A part that is skipped would be a part that nobody judged."""
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:-5])
    (folder / "a" / "empty.jpg").touch()
    (folder / "z.gif").write_bytes(b"GIF89a" + bytes(20))
    (folder / "linked.png").symlink_to("nowhere.png")
    frames = {frame.name: frame for frame in FolderCamera(folder).frames()}
    broken = {name: frame.error for name, frame in frames.items() if frame.image is None}
    assert list(broken) == ["a/empty.jpg", "b.png", "linked.png", "z.gif"]
    assert "b.png is truncated: the PNG data ends too early" in broken["b.png"]
    assert "empty.jpg is empty (0 bytes)" in broken["a/empty.jpg"]
    assert "is in the format GIF, which is not read here" in broken["z.gif"]
    assert {frames[name].reason for name in broken} == {"bad_frame"}
    assert frames["a/c.PNG"].image is not None


def test_part_that_vanishes_is_a_frame_with_an_error(folder):
    frames = FolderCamera(folder).frames()
    next(frames)
    (folder / "b.png").unlink()
    assert "b.png is missing" in list(frames)[-1].error


def test_folder_without_parts_is_an_error_before_the_line_starts(tmp_path, folder):
    with pytest.raises(CameraError, match="nowhere is not a folder"):
        FolderCamera(tmp_path / "nowhere")
    with pytest.raises(CameraError, match=r"notes\.txt is not a folder"):
        FolderCamera(folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(CameraError, match=r"empty holds no images\. Put PNG, JPEG, BMP, TIFF or WebP files there"):
        FolderCamera(tmp_path / "empty")


def test_folder_that_runs_dry_is_an_error(folder):
    frames = FolderCamera(folder, loop=0).frames()
    assert len(list(islice(frames, 3))) == 3
    for path in ("b.png", "a/c.PNG", "a/d.bmp"):
        (folder / path).unlink()
    with pytest.raises(CameraError, match="line holds no images"):
        next(frames)


def test_folder_that_cannot_be_listed_is_an_error(folder, monkeypatch):
    """Parts that the camera may not see must not be left out in silence."""
    listed = Path.iterdir

    def refuse_a(path):
        if path.name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))  # as for any user but root
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse_a)
    with pytest.raises(CameraError, match=r"a can't be listed \(Permission denied\)\. Check its permissions"):
        FolderCamera(folder)


class Clock:
    """Monotonic time that moves only by waiting, and by `advance`."""

    def __init__(self):
        self.now, self.waits = 100.0, []

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        return False


def test_interval_is_kept_without_drift_and_without_bursts(folder, monkeypatch):
    clock, camera = Clock(), FolderCamera(folder, loop=0, interval_s=0.5)
    monkeypatch.setattr("edge_agent.cameras.folder.time.monotonic", clock.monotonic)
    monkeypatch.setattr(camera._closed, "wait", clock.wait)
    seen, frames = [], camera.frames()
    for spent in (0.0, 0.25, 0.25, 2.0, 0.0, 0.0):  # seconds that the consumer needs after each frame
        next(frames)
        seen.append(clock.now - 100)
        clock.now += spent
    assert seen == [0.0, 0.5, 1.0, 1.5, 3.5, 4.0]


def test_close_from_another_thread_ends_the_wait(folder):
    camera, got_one = FolderCamera(folder, loop=0, interval_s=3600), threading.Event()
    frames: list[Frame] = []

    def take():
        for frame in camera.frames():
            frames.append(frame)
            got_one.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert got_one.wait(10)
    camera.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(frames) == 1


def test_video_gives_every_frame_once_in_rgb(video):
    frames = list(VideoFileCamera(video).frames())
    assert names(frames) == [str(i) for i in range(12)]
    assert all(frame.error is None and frame.image.shape == (48, 64, 3) for frame in frames)
    reds = [int(frame.image[40, 32, 0]) for frame in frames]
    assert np.abs(np.subtract(reds, np.arange(12) * 20)).max() < 8
    assert max(int(frame.image[40, 32, 2]) for frame in frames) < 20


def test_video_plays_again_and_stops_when_closed(video):
    assert names(VideoFileCamera(video, loop=2).frames()) == [str(i) for i in range(12)] * 2
    camera = VideoFileCamera(video, loop=0)
    frames = camera.frames()
    assert len(list(islice(frames, 30))) == 30
    camera.close()
    assert list(islice(frames, 100)) == []


def test_video_cut_short_says_how_many_frames_are_missing(video, tmp_path, capfd):
    cut = tmp_path / "cut.avi"
    data = video.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    *sound, last = VideoFileCamera(cut).frames()
    assert 0 < len(sound) < 12
    assert all(frame.image is not None for frame in sound)
    assert (last.image, last.reason, last.name) == (None, "no_frame", str(len(sound)))
    assert f"cut.avi ended after {len(sound)} of 12 frames. Copy or record it again." in last.error
    assert capfd.readouterr().err == ""


def test_what_is_no_video_is_an_error_before_the_line_starts(tmp_path, video):
    with pytest.raises(CameraError, match=r"gone\.avi is not a file\. Give the video"):
        VideoFileCamera(tmp_path / "gone.avi")
    (tmp_path / "notes.avi").write_text("no frames here")
    with pytest.raises(CameraError, match=r"notes\.avi can't be opened as a video"):
        VideoFileCamera(tmp_path / "notes.avi")
    (tmp_path / "head.avi").write_bytes(video.read_bytes()[:4000])  # the header, and no frame behind it
    with pytest.raises(CameraError, match=r"head\.avi (gives no frame|can't be opened)"):
        VideoFileCamera(tmp_path / "head.avi")


def test_video_that_vanishes_between_rounds_is_an_error(video, tmp_path):
    path = tmp_path / "line.avi"
    path.write_bytes(video.read_bytes())
    frames = VideoFileCamera(path, loop=0).frames()
    assert len(list(islice(frames, 12))) == 12
    path.unlink()
    with pytest.raises(CameraError, match=r"line\.avi is not a file"):
        next(frames)
