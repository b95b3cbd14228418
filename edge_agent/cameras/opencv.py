"""USB cameras (V4L2) and network cameras (RTSP, FFmpeg), through OpenCV."""

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.live import Shot
from edge_agent.cameras.redact import redact
from edge_agent.cameras.settings import RtspCameraConfig, UsbCameraConfig
from edge_agent.preprocess import MAX_PIXELS

# How a stream's frames come as soon as they are there: none kept from the time it was opened, none inside the decoder.
PROMPT = "fflags;nobuffer|flags;low_delay"
CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
OPENING = threading.Lock()
DRIFT = 1e-3  # clocks of camera and device may drift apart by so much; more is lateness


class Lateness:
    """How much longer a frame was on its way than the fastest one of its connection, by the stream's timestamps.

    A decoder gives up what it held back when a read times out, and a network delivers in a burst what it kept; such a
    frame shows a part that has passed.
    """

    def __init__(self) -> None:
        self._least = math.inf  # arrival less timestamp: what only the fastest frames come near to
        self._last = (0.0, 0.0)  # timestamp, arrival

    def of(self, timestamp_s: float, arrived_s: float) -> float:
        """Seconds; 0 where the stream has no timestamps that rise."""
        before, arrived_before = self._last
        self._last = timestamp_s, arrived_s
        if timestamp_s <= before:
            return 0.0
        self._least = min(self._least + DRIFT * (arrived_s - arrived_before), arrived_s - timestamp_s)
        return arrived_s - timestamp_s - self._least


class OpenCvSource:
    """An opened cv2.VideoCapture. Its `read` has time limits of its own: FFmpeg's are set, V4L2 has 10 s.

    too_late_s: a stream's frame that comes so much later than the fastest is late; None: they have no timestamps.
    """

    def __init__(self, name: str, capture: Any, *, too_late_s: float | None = None):
        self._name, self._capture = name, capture
        self._too_late_s, self._lateness = too_late_s, Lateness()

    def read(self, timeout_s: float) -> Shot | None:
        """Blocks up to the capture's own limit; `timeout_s` can't shorten it."""
        try:
            good, image = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"{self._name} can't be read ({error.err}).") from error
        if not good or image is None:
            raise CameraError(f"{self._name} gives no more frames: its connection ended, or it went silent.")
        if self._too_late_s is not None:
            timestamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self._lateness.of(timestamp_s, time.monotonic()) > self._too_late_s:
                return Shot(late=True)
        return _as_rgb(self._name, image)

    def trigger(self) -> None:
        raise CameraError(f"{self._name} can't be triggered.")

    def close(self) -> None:
        self._capture.release()


def open_usb(config: UsbCameraConfig) -> OpenCvSource:
    """CameraError where it is missing, in use, or doesn't do what the configuration asks for."""
    name = usb_name(config)
    capture = cv2.VideoCapture(config.device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(
            f"{name} can't be opened. Check that it is plugged in (v4l2-ctl --list-devices), that no other program "
            "uses it, and that the agent's user is in the group video."
        )
    if config.pixel_format is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.pixel_format))
    if config.width is not None and config.height is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        given = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if given != (config.width, config.height):
            capture.release()
            raise CameraError(
                f"{name} gives frames of {given[0]} x {given[1]} pixels, not {config.width} x {config.height}. "
                "Set width and height to what `v4l2-ctl --list-formats-ext` lists."
            )
    if config.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, config.fps)
    return OpenCvSource(name, capture)


def open_rtsp(config: RtspCameraConfig) -> OpenCvSource:
    """CameraError where nothing answers in time, or the stream can't be decoded; its address without the login."""
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, math.ceil(1000 * config.open_timeout_s),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, math.ceil(1000 * config.stall_s),
        cv2.CAP_PROP_N_THREADS, 1,  # each further one keeps a frame back
    ]  # fmt: skip
    with _capture_options(f"rtsp_transport;{config.transport}|{PROMPT}"):
        capture = cv2.VideoCapture(config.url.get_secret_value(), cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        raise CameraError(
            f"{rtsp_name(config)} can't be opened. Check address, login and transport ({config.transport}), and that "
            "the camera is on."
        )
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if size[0] * size[1] > MAX_PIXELS:
        capture.release()
        raise CameraError(f"{rtsp_name(config)} has frames of {size[0]} x {size[1]} pixels, too large. Scale it down.")
    return OpenCvSource(rtsp_name(config), capture, too_late_s=config.stall_s / 2)


@contextmanager
def _capture_options(options: str) -> Iterator[None]:
    """FFmpeg's, for what is opened within: the only way to tell OpenCV. What the user set outside rules."""
    with OPENING:
        ours = CAPTURE_OPTIONS not in os.environ
        if ours:
            os.environ[CAPTURE_OPTIONS] = options
        try:
            yield
        finally:
            if ours:  # a video file that is opened next must not lose frames to a stream's haste
                del os.environ[CAPTURE_OPTIONS]


def usb_name(config: UsbCameraConfig) -> str:
    return f"The camera /dev/video{config.device}" if isinstance(config.device, int) else f"The camera {config.device}"


def rtsp_name(config: RtspCameraConfig) -> str:
    return f"The camera {redact(config.url.get_secret_value())}"


def _as_rgb(name: str, image: np.ndarray) -> Shot:
    """OpenCV gives BGR, of its own or of grey cameras."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        return Shot(
            error=f"{name} gave a frame of {image.dtype} {image.shape}, not of 8-bit pixels.", reason="bad_frame"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return Shot(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    return Shot(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
