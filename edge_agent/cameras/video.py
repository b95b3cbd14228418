"""A video file as a camera."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_agent import clock
from edge_agent.cameras.folder import rounds_of
from edge_agent.cameras.frame import CameraError, Frame
from edge_agent.preprocess import MAX_PIXELS

# FFmpeg's own lines on stderr about a broken video; the user's setting, if there is one, rules
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoFileCamera:
    """Plays a video file, each frame once. `loop` as FolderCamera has it.

    A video that can't be opened or gives no frame is a CameraError. One that ends before the number of frames its
    header announces, as a cut file does, ends with one Frame that says so; the header's number is an estimate in some
    formats, so the missing frames are told, not made up. What the decoder conceals inside a frame can't be seen.
    """

    def __init__(self, path: Path, *, loop: int | bool = 1):
        self.name = str(path)
        self._path = path
        self._rounds = rounds_of(loop)
        self._closed = threading.Event()
        self._open()[0].release()  # a broken video shows before the line starts

    def frames(self) -> Iterator[Frame]:
        done = 0
        while self._rounds is None or done < self._rounds:
            video, image = self._open()
            try:
                yield from self._play(video, image)
            finally:
                video.release()
            if self._closed.is_set():
                return
            done += 1

    def close(self) -> None:
        self._closed.set()

    def _play(self, video: Any, image: np.ndarray | None) -> Iterator[Frame]:
        announced, number = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while image is not None:
            if self._closed.is_set():
                return
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Frame(str(number), clock.utc(), time.monotonic_ns(), image=rgb)
            number += 1
            image = _read(video)
        if number < announced:
            error = f"{self._path} ended after {number} of {announced} frames. Copy or record it again."
            yield Frame(str(number), clock.utc(), time.monotonic_ns(), error=error, reason="no_frame")

    def _open(self) -> tuple[Any, np.ndarray]:
        """The opened video and its first frame (BGR)."""
        if not self._path.is_file():
            raise CameraError(f"{self._path} is not a file. Give the video that the camera plays.")
        video = cv2.VideoCapture(str(self._path))
        if not video.isOpened():
            raise CameraError(
                f"{self._path} can't be opened as a video. Convert it to an MP4 or AVI that OpenCV reads."
            )
        size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if size[0] * size[1] > MAX_PIXELS:
            video.release()
            raise CameraError(f"{self._path} has frames of {size[0]} x {size[1]} pixels, too large. Scale it down.")
        image = _read(video)
        if image is None:
            video.release()
            raise CameraError(f"{self._path} gives no frame. Record it again.")
        return video, image


def _read(video: Any) -> np.ndarray | None:
    try:
        good, image = video.read()
    except cv2.error:
        return None
    return image if good else None
