"""USB cameras (V4L2) and network cameras (RTSP, FFmpeg), through OpenCV."""

import math
import os
from typing import Any

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.live import Shot
from edge_agent.cameras.redact import redact
from edge_agent.config import RtspCameraConfig, UsbCameraConfig
from edge_agent.preprocess import MAX_PIXELS


class OpenCvSource:
    """An opened cv2.VideoCapture. Its `read` has time limits of its own: FFmpeg's are set, V4L2 has 10 s."""

    def __init__(self, name: str, capture: Any):
        self._name, self._capture = name, capture

    def read(self, timeout_s: float) -> Shot | None:
        """Blocks up to the capture's own limit; `timeout_s` can't shorten it."""
        try:
            good, image = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"{self._name} can't be read ({error.err}).") from error
        if not good or image is None:
            raise CameraError(f"{self._name} gives no more frames: its connection ended, or it went silent.")
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
    # The only way to tell OpenCV; read at each opening. What the user set outside rules.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"rtsp_transport;{config.transport}")
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, math.ceil(1000 * config.open_timeout_s),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, math.ceil(1000 * config.stall_s),
    ]  # fmt: skip
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
    return OpenCvSource(rtsp_name(config), capture)


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
