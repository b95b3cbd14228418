"""A live camera over scripted sources: what is dropped, what is a verdict, what happens when it stalls or breaks."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from queue import Empty, Queue

import cv2
import numpy as np
import pytest
from camera_frames import frames_until
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cameras.frame import CameraError, Frame
from edge_agent.cameras.live import QUEUED_SHOTS, LiveCamera, Shot
from edge_agent.cameras.opencv import DRIFT, Lateness, OpenCvSource, open_rtsp, open_usb
from edge_agent.cameras.settings import LiveCameraConfig, RtspCameraConfig, UsbCameraConfig

PATIENCE_S = 60.0  # for an overloaded machine; nothing waits so long where all is well
HASTY = {"stall_s": 0.3, "open_timeout_s": 0.3, "reconnect_min_s": 0.01, "reconnect_max_s": 0.05}


def picture(seed: int) -> np.ndarray:
    """Textured, warm, and another one for each seed."""
    noise = np.random.default_rng(seed).integers(-40, 41, (48, 64, 1))
    return np.clip(np.array([140, 110, 80]) + noise, 0, 255).astype(np.uint8)


class Script:
    """Connections to a camera, one list of events each: a Shot, an exception to raise, a callable to wait in.

    After the last event the camera is silent. `opened` and `closed` count; `done` is set when all was read.
    """

    def __init__(self, *connections: list):
        self.connections, self.opened, self.closed, self.triggers = list(connections), 0, 0, 0
        self.done = threading.Event()

    def __call__(self) -> "Script.Connection":
        self.opened += 1
        if not self.connections:
            self.done.set()
            raise CameraError("The camera can't be opened.")
        events = self.connections.pop(0)
        if isinstance(events, Exception):
            raise events
        return self.Connection(self, list(events))

    class Connection:
        def __init__(self, script: "Script", events: list):
            self.script, self.events = script, events

        def read(self, timeout_s: float) -> Shot | None:
            if not self.events:
                if not self.script.connections:
                    self.script.done.set()
                time.sleep(min(timeout_s, 0.02))
                return None
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Callable):
                event()
                return None
            return event

        def trigger(self) -> None:
            self.script.triggers += 1

        def close(self) -> None:
            self.script.closed += 1


def shots(*seeds: int) -> list[Shot]:
    return [Shot(picture(seed)) for seed in seeds]


def live(script: Script, **options) -> LiveCamera:
    checks = options.pop("checks", {})
    kind = {name: options.pop(name) for name in ("mode", "interval_s", "size") if name in options}
    return LiveCamera("The camera", script, LiveCameraConfig(**{**HASTY, **options, "checks": checks}), **kind)


def reasons(frames: list[Frame]) -> list[str | None]:
    return [frame.reason for frame in frames]


def test_who_is_slow_gets_the_newest_frame_and_the_others_are_counted_not_judged():
    camera = live(Script(shots(0)), stall_s=PATIENCE_S)
    with closing(camera.frames()) as frames:
        first = next(frames)
        for seed in range(1, 6):  # while the line is busy with the first
            camera._put(Shot(picture(seed)))
        second = next(frames)
    assert (first.name, second.name) == ("0", "5")
    np.testing.assert_array_equal(second.image, picture(5))
    assert (camera.counts.frames, camera.counts.dropped) == (6, 4)


def test_a_source_that_hangs_is_noticed_in_time_by_another_thread():
    hang = threading.Event()
    camera = live(Script([*shots(0), lambda: hang.wait(PATIENCE_S)]), stall_s=0.5, open_timeout_s=PATIENCE_S)

    def enough(frames):
        if len(frames) == 3:
            hang.set()
        return len(frames) == 3

    frames = frames_until(camera, enough)
    assert reasons(frames) == [None, "stalled", "stalled"]  # and again after each stall_s
    assert frames[1].ts_mono_ns - frames[0].ts_mono_ns >= 0.5e9
    assert "The camera has given no frame for " in frames[1].error
    assert frames[1].error.endswith(" s. It is connected and silent.")


def test_it_is_tried_for_ever_and_an_outage_is_one_line_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    refused = [CameraError("The camera can't be opened.") for _ in range(8)]
    script = Script(*refused, shots(1, 2), ValueError("a bug"), shots(3))
    camera = live(script, stall_s=0.1, open_timeout_s=0.05, checks={"frozen_frames": None})
    frames = frames_until(
        camera, lambda frames: frames[-1].image is not None and (frames[-1].image == picture(3)).all()
    )
    assert script.opened == 11
    assert "stalled" in reasons(frames)
    assert "The camera can't be opened." in next(frame.error for frame in frames if frame.reason)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0].startswith("The camera can't be opened. It is tried again for ever")
    assert sum("can't be opened" in text for text in warnings) == 1
    assert warnings[1].startswith("The camera is connected, but gave no frame for 0.1 s.")
    assert not any("a bug" in text for text in warnings)  # the same outage
    assert any("The camera is back after" in record.message for record in caplog.records)
    assert script.closed == script.opened - 9  # each connection that was opened is closed


def test_no_picture_is_judged_twice_and_frozen_is_unknown():
    """A free-running camera's repeats are dropped and counted, and enough of them in a row are `frozen`."""
    gate: Queue[None] = Queue()

    class Paced(Script.Connection):
        """Gives the next frame when the last one was judged."""

        def read(self, timeout_s):
            try:
                gate.get(timeout=timeout_s)
            except Empty:
                return None
            return super().read(timeout_s)

    script = Script(shots(1, 1, 2, 2, 2, 2, 2, 3))
    script.Connection = Paced
    camera = live(script, stall_s=PATIENCE_S, open_timeout_s=PATIENCE_S, checks={"frozen_frames": 4})
    judge = camera._judge
    camera._judge = lambda taken: (judge(taken), gate.put(None))[0]
    gate.put(None)
    frames = frames_until(camera, lambda frames: len(frames) == 4)
    assert [(frame.name, frame.reason) for frame in frames] == [("0", None), ("2", None), ("5", "frozen"), ("7", None)]
    assert "is frozen: the same picture 4 times in a row." in frames[2].error
    assert camera.counts.repeated == 5


def test_a_triggered_camera_gives_one_verdict_per_frame_whatever_happens():
    """Repeats are frozen at once, incomplete frames unknown, and what finds no room is unknown, overrun."""
    n = QUEUED_SHOTS + 3
    incomplete = Shot(error="A frame arrived incomplete.", reason="bad_frame")
    script = Script([*shots(0, 0), incomplete])
    camera = live(script, mode="every", checks={"frozen_frames": 10})
    frames = frames_until(camera, lambda frames: len(frames) == 3)
    assert reasons(frames) == [None, "frozen", "bad_frame"]
    camera = live(Script([]), mode="every")
    for seed in range(n):  # while the line is busy
        camera._put(Shot(picture(seed)))
    with closing(camera.frames()) as taken:
        found = list(islice(taken, n))
    assert reasons(found)[:QUEUED_SHOTS] == [None] * QUEUED_SHOTS
    assert reasons(found)[QUEUED_SHOTS:] == ["overrun"] * 3
    assert [frame.name for frame in found] == [str(i) for i in range(n)]
    assert camera.counts.dropped == 0


def test_a_triggered_camera_is_silent_by_right_until_its_connection_is_gone():
    script = Script([*shots(0), lambda: time.sleep(1.0), CameraError("The cable is out.")])
    camera = live(script, mode="every")
    frames = frames_until(camera, lambda frames: len(frames) == 2)
    assert reasons(frames) == [None, "stalled"]  # silence of three times stall_s is none
    assert "The cable is out." in frames[1].error or "can't be opened" in frames[1].error


def test_the_agents_trigger_is_answered_by_one_frame_each_and_waits_for_room():
    script = Script(shots(*range(5)), shots(9))
    camera = live(script, mode="asked", stall_s=PATIENCE_S)
    frames = frames_until(camera, lambda frames: len(frames) == 7)
    assert reasons(frames) == [None] * 5 + ["no_frame", None]  # silence after a trigger; then it is connected anew
    assert "gave no frame within 60 s of its trigger" in frames[5].error
    assert camera.counts.dropped == 0
    assert script.triggers - len(frames) in (0, 1)


def test_a_camera_that_waits_to_be_asked_answers_each_request_by_its_number_and_no_old_one():
    script = Script(shots(*range(5)))
    camera = live(script, mode="asked", stall_s=PATIENCE_S, open_timeout_s=PATIENCE_S)
    camera.wait_to_be_asked()
    camera.ask(6, time.monotonic_ns() - 1)  # nobody wants it any more
    camera.ask(7, None)
    camera.ask(9, time.monotonic_ns() + int(1e9 * PATIENCE_S))
    frames = frames_until(camera, lambda frames: len(frames) == 2)
    assert [(frame.asked, frame.image is not None) for frame in frames] == [(7, True), (9, True)]
    assert script.triggers == 2


def test_an_outage_is_told_when_it_begins_and_when_it_is_over_with_its_length():
    outages = []
    script = Script([*shots(0), lambda: time.sleep(0.2), CameraError("The cable is out.")], shots(1))
    camera = live(script, stall_s=PATIENCE_S, open_timeout_s=PATIENCE_S, reconnect_min_s=0.2, reconnect_max_s=0.2)
    camera.on_outage = outages.append
    frames_until(camera, lambda frames: len(frames) == 2)
    lost, back = outages
    assert (lost.lost, back.lost, lost.number, back.number) == (True, False, 1, 1)
    assert lost.text == "The cable is out. It is tried again for ever; without it parts are unknown."
    assert back.gone_ms >= 250
    assert back.text == f"The camera is back after {back.gone_ms / 1000:.1f} s."


def test_a_source_that_hangs_is_an_outage_too():
    hang, outages = threading.Event(), []
    camera = live(Script([*shots(0), lambda: hang.wait(PATIENCE_S)], shots(1)), stall_s=0.3)
    camera.on_outage = lambda outage: (outages.append(outage), hang.set())
    frames_until(camera, lambda frames: sum(frame.image is not None for frame in frames) == 2)
    assert [outage.lost for outage in outages] == [True, False]
    assert outages[0].text.startswith("The camera has given no frame for 0.")


def test_what_is_wrong_after_a_reconnect_is_unknown_by_reason():
    """Another resolution and swapped channels; the first connection says what is right."""
    small, swapped = cv2.resize(picture(30), (32, 24)), np.ascontiguousarray(picture(31)[..., ::-1])
    script = Script([*shots(*range(20)), CameraError("x")], [Shot(small), Shot(swapped), Shot(picture(32))])
    camera = live(script, mode="asked", stall_s=PATIENCE_S)
    frames = frames_until(camera, lambda frames: len(frames) == 23)
    assert reasons(frames) == [None] * 20 + ["wrong_size", "wrong_color", None]
    assert "Frame 20 of The camera is 32 x 24 pixels, and 64 x 48 are right." in [f.error for f in frames]


def test_late_frames_are_counted_and_neither_judged_nor_a_sign_of_life():
    late = [Shot(late=True)] * 50
    script = Script([*shots(1), *late], shots(2))
    camera = live(script, stall_s=0.3, open_timeout_s=PATIENCE_S, reconnect_min_s=0.5, reconnect_max_s=0.5)
    frames = frames_until(camera, lambda frames: sum(frame.image is not None for frame in frames) == 2)
    assert reasons(frames)[:2] == [None, "stalled"]
    assert camera.counts.late == 50
    assert camera.counts.frames == 2


@given(delays=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=40), start=st.floats(-1e5, 1e5))
def test_lateness_is_the_delay_beyond_the_fastest_so_far(delays, start):
    """Whatever the offset of the two clocks is; frames come in order, 0.1 s apart."""
    lateness, arrived, least = Lateness(), 0.0, math.inf
    for number, delay in enumerate(delays, 1):
        arrived = max(arrived, 0.1 * number + delay)  # none overtakes another
        least = min(least, arrived - 0.1 * number)
        beyond = arrived - 0.1 * number - least
        assert beyond - DRIFT * arrived - 1e-6 <= lateness.of(0.1 * number, start + arrived) <= beyond + 1e-6


def test_a_stream_says_which_of_its_frames_is_late(monkeypatch):
    """Frames of 0.0, 0.1, ... s by the stream's clock; the fourth waited for a second, as after a time-out."""
    arrivals = iter([5.0, 5.1, 5.2, 6.3, 6.31, 5.5 + 1.0])
    monkeypatch.setattr("edge_agent.cameras.opencv.time.monotonic", lambda: next(arrivals))
    capture = UsbStandIn(frames=6)
    stamps = iter(range(0, 600, 100))
    monkeypatch.setattr(capture, "get", lambda what: float(next(stamps)) if what == cv2.CAP_PROP_POS_MSEC else 0.0)
    source = OpenCvSource("The camera", capture, too_late_s=0.5)
    assert [source.read(1.0).late for _ in range(6)] == [False, False, False, True, True, True]
    capture = UsbStandIn(frames=1)
    assert OpenCvSource("The camera", capture).read(1.0).image is not None  # without timestamps none is asked for


def test_a_streams_options_are_for_its_own_opening_alone(monkeypatch):
    """They cost a video file that is opened afterwards its last frames."""
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    seen = []

    def opened(*_):
        seen.append(os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS"))
        return UsbStandIn()

    monkeypatch.setattr(cv2, "VideoCapture", opened)
    for transport in ("udp", "tcp"):
        open_rtsp(RtspCameraConfig(kind="rtsp", url="rtsp://127.0.0.1/line", transport=transport))
        assert f"rtsp_transport;{transport}|" in seen[-1]
        assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ


def test_a_stream_without_timestamps_has_no_late_frames():
    lateness = Lateness()
    assert [lateness.of(0.0, 10.0 * n) for n in range(5)] == [0.0] * 5


def test_close_from_another_thread_ends_a_silent_camera_and_frees_its_source():
    script = Script([])
    camera = live(script, stall_s=PATIENCE_S, open_timeout_s=PATIENCE_S)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (list(camera.frames()), ended.set()))
    thread.start()
    assert script.done.wait(PATIENCE_S)
    camera.close()
    assert ended.wait(PATIENCE_S)
    thread.join()
    assert script.closed == 1


class UsbStandIn:
    """cv2.VideoCapture of a camera that gives `frames` of `size` and is then unplugged."""

    def __init__(self, frames=3, size=(64, 48), there=True):
        self.frames, self.size, self.there, self.set_to = frames, size, there, {}

    def __call__(self, device, backend):
        assert backend == cv2.CAP_V4L2
        self.device = device
        return self

    def isOpened(self):  # noqa: N802
        return self.there

    def set(self, what, value):
        self.set_to[what] = value

    def get(self, what):
        return float({cv2.CAP_PROP_FRAME_WIDTH: self.size[0], cv2.CAP_PROP_FRAME_HEIGHT: self.size[1]}[what])

    def read(self):
        self.frames -= 1
        return (True, picture(self.frames)[..., ::-1]) if self.frames >= 0 else (False, None)

    def release(self):
        self.there = False


def test_a_usb_camera_is_set_up_read_in_rgb_and_missed_when_unplugged(monkeypatch):
    camera = UsbStandIn()
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    source = open_usb(
        UsbCameraConfig(kind="usb", device="/dev/v4l/by-id/x", width=64, height=48, fps=30, pixel_format="MJPG")
    )
    assert camera.set_to[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
    assert next(iter(camera.set_to)) == cv2.CAP_PROP_FOURCC  # the sizes on offer depend on it
    shot = source.read(1.0)
    np.testing.assert_array_equal(shot.image, picture(2))
    source.read(1.0), source.read(1.0)
    with pytest.raises(CameraError, match=r"/dev/v4l/by-id/x gives no more frames: its connection ended"):
        source.read(1.0)


def test_a_usb_camera_that_is_missing_or_does_not_do_as_told_says_so(monkeypatch):
    with pytest.raises(CameraError, match=r"/dev/video97 can't be opened\. Check that it is plugged in"):
        open_usb(UsbCameraConfig(kind="usb", device=97))
    monkeypatch.setattr(cv2, "VideoCapture", UsbStandIn(size=(640, 480)))
    with pytest.raises(CameraError, match=r"/dev/video0 gives frames of 640 x 480 pixels, not 1280 x 720"):
        open_usb(UsbCameraConfig(kind="usb", width=1280, height=720))
