"""A real network camera: a GStreamer RTSP server in a process of its own, over OpenCV's FFmpeg."""

import logging
import threading
import time

import numpy as np
import pytest
import yaml
from line import call, make_line
from mosquitto import free_port
from network_camera import NetworkCamera

from edge_agent.cameras.frame import Frame
from edge_agent.cameras.open import open_camera
from edge_agent.cameras.settings import RtspCameraConfig

pytest_plugins = ["distribution_gi"]
PATIENCE_S = 120.0  # for an overloaded machine
DARK, BRIGHT = 0x3C, 0xA0  # backgrounds of the first and of the second start


@pytest.fixture
def camera(gi_folder):
    camera = NetworkCamera(gi_folder, free_port())
    yield camera
    camera.close()


class Watched:
    """A camera's frames, collected in a thread."""

    def __init__(self, config: RtspCameraConfig):
        self.frames: list[Frame] = []
        self.camera, self._changed = open_camera(config), threading.Condition()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self):
        for frame in self.camera.frames():
            with self._changed:
                self.frames.append(frame)
                self._changed.notify_all()

    def wait_for(self, happened) -> list[Frame]:
        with self._changed:
            reached = self._changed.wait_for(lambda: happened(self.frames), PATIENCE_S)
            assert reached, [(frame.name, frame.error) for frame in self.frames[-5:]]
            return list(self.frames)

    def close(self):
        self.camera.close()
        self._thread.join()


def sound(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.image is not None]


def background(frame: Frame) -> float:
    return float(np.median(frame.image))


def settings(camera: NetworkCamera, **changes) -> RtspCameraConfig:
    url = camera.url.replace("rtsp://", "rtsp://operator:canary-5391@")
    quick = {"stall_s": 1.0, "open_timeout_s": 30.0, "reconnect_min_s": 0.1, "reconnect_max_s": 0.5}
    return RtspCameraConfig(kind="rtsp", url=url, **{**quick, **changes})


def test_a_hung_and_killed_camera_is_stalled_in_time_and_comes_back_with_new_frames_only(camera, caplog):
    caplog.set_level(logging.DEBUG)
    camera.start("3c3c3c")
    watched = Watched(settings(camera))
    try:
        before = sound(watched.wait_for(lambda frames: len(sound(frames)) >= 10))
        assert {frame.image.shape for frame in before} == {(240, 320, 3)}
        assert all(abs(background(frame) - DARK) < 12 for frame in before)
        ball = before[-1].image.reshape(-1, 3).astype(int)
        assert ((ball[:, 0] > 200) & (ball[:, 2] < 60)).any()  # orange, so red comes first
        camera.hold()
        hung = watched.wait_for(lambda frames: frames[-1].reason == "stalled")
        last = sound(hung)[-1]
        assert 1.0e9 <= hung[-1].ts_mono_ns - last.ts_mono_ns < 10e9  # stall_s, and a loaded machine's delay
        camera.kill()
        seen = len(watched.wait_for(lambda frames: "can't be opened" in str(frames[-1].error)))
        started = time.monotonic_ns()
        camera.start("a0a0a0")
        frames = watched.wait_for(lambda frames: len(sound(frames[seen:])) >= 10)
    finally:
        watched.close()
    after = sound(frames[seen:])
    assert all(abs(background(frame) - BRIGHT) < 12 for frame in after)  # nothing of the first start comes late
    assert all(frame.ts_mono_ns > started for frame in after)
    numbers = [int(frame.name) for frame in sound(frames)]
    assert numbers == sorted(set(numbers))
    assert not {frame.reason for frame in frames} - {None, "stalled"}
    assert watched.camera.counts.reconnects >= 1
    said = f"{watched.camera.name} {[frame.error for frame in frames]} {caplog.text}"
    assert "rtsp://***@127.0.0.1" in said
    assert "canary" not in said
    assert "operator" not in said


def test_check_and_record_work_with_it(camera, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CAMERA_PASSWORD", "canary-5391")
    camera.start("3c3c3c")
    url = camera.url.replace("rtsp://", "rtsp://operator:{CAMERA_PASSWORD}@")
    config = make_line(tmp_path, port=free_port(), cameras={"top": {"kind": "rtsp", "url": url, "open_timeout_s": 30}})
    assert list(yaml.safe_load(config.read_text())["cameras"]) == ["top"]
    done = call("check", config)
    assert "camera top: gives frames of 320 x 240 pixels" in done.stdout
    recorded = call("record", "--config", config, "--count", "3", "--out", tmp_path / "good")
    assert recorded.returncode == 0, recorded.stderr
    assert len(list((tmp_path / "good").glob("*.png"))) == 3
    camera.kill()
    config.write_text(config.read_text().replace("open_timeout_s: 30", "open_timeout_s: 1"))
    gone = call("check", config)
    assert gone.returncode >= 1
    assert "has given no frame for" in gone.stdout
    said = "".join((done.stdout, recorded.stdout, recorded.stderr, gone.stdout, gone.stderr, *capfd.readouterr()))
    assert "canary" not in said
