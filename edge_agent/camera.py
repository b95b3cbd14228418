"""Where frames come from. Nothing is skipped: what can't be read is a Frame with an error, and its part `unknown`.

A frame that can't be read is one part's trouble; a camera that can give no frames is a CameraError.
"""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from edge_agent.preprocess import IMAGE_SUFFIXES, MAX_PIXELS, ImageError, read_image

# FFmpeg's own lines on stderr about a broken video; the user's setting, if there is one, rules
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class CameraError(RuntimeError):
    """A camera that can't be opened or gives no frames; the message says which, why and what to do."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One trigger's picture, or the reason why there is none: exactly one of `image` and `error` is set."""

    name: str  # file name below the folder, or the frame's number in its video
    captured_at: datetime  # UTC, when the frame was read
    ts_mono_ns: int  # the same instant on the monotonic clock, which no clock change moves
    image: np.ndarray | None = None  # uint8 [h, w, 3] RGB, the whole upright frame
    error: str | None = None  # a sentence
    reason: Literal["bad_frame", "no_frame"] | None = None  # of the error, as decision.UnknownReason


class Camera(Protocol):
    """A source of frames. One thread iterates `frames`; `close` may come from another and ends the iteration."""

    name: str

    def frames(self) -> Iterator[Frame]:
        """Frames in order, each once, until the source ends or is closed. CameraError where it breaks down."""
        ...

    def close(self) -> None: ...


class FolderCamera:
    """Replays the image files of a folder and its subfolders, sorted by path.

    loop: how many times to go through the folder; 0 or True: for ever. The folder is listed anew for each round.
    interval_s: time from one frame to the next, as a line's cycle time; 0: as fast as frames are taken. A consumer that
    is slower delays the next frame, none is dropped, and the delay is not made up for in a burst.
    A file that can't be read or vanishes is a Frame with an error. A folder that is missing, holds no images or runs
    dry between two rounds is a CameraError. Hidden files and files whose suffix means no image are no parts.
    """

    def __init__(self, folder: Path, *, loop: int | bool = 1, interval_s: float = 0.0):
        self.name = str(folder)
        self._folder = folder
        self._rounds = _rounds(loop)
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._list()  # an empty folder shows before the line starts

    def frames(self) -> Iterator[Frame]:
        due, done = time.monotonic(), 0
        while self._rounds is None or done < self._rounds:
            for path in self._list():
                if self._closed.wait(max(0.0, due - time.monotonic())):
                    return
                now = time.monotonic()
                due = (due if now < due + self._interval_s else now) + self._interval_s
                yield self._frame(path)
            done += 1

    def close(self) -> None:
        self._closed.set()

    def _frame(self, path: Path) -> Frame:
        name, now = path.relative_to(self._folder).as_posix(), (datetime.now(timezone.utc), time.monotonic_ns())
        try:
            return Frame(name, *now, image=read_image(path))
        except ImageError as error:
            return Frame(name, *now, error=str(error), reason="bad_frame")

    def _list(self) -> list[Path]:
        if not self._folder.is_dir():
            raise CameraError(f"{self._folder} is not a folder. Give the folder of images that the camera replays.")
        try:
            paths = sorted(_parts(self._folder))
        except OSError as error:
            raise CameraError(f"{error.filename} can't be listed ({error.strerror}). Check its permissions.") from error
        if not paths:
            raise CameraError(f"{self._folder} holds no images. Put PNG, JPEG, BMP, TIFF or WebP files there.")
        return paths


class VideoFileCamera:
    """Plays a video file, each frame once. `loop` as FolderCamera has it.

    A video that can't be opened or gives no frame is a CameraError. One that ends before the number of frames its
    header announces, as a cut file does, ends with one Frame that says so; the header's number is an estimate in some
    formats, so the missing frames are told, not made up. What the decoder conceals inside a frame can't be seen.
    """

    def __init__(self, path: Path, *, loop: int | bool = 1):
        self.name = str(path)
        self._path = path
        self._rounds = _rounds(loop)
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
            yield Frame(str(number), datetime.now(timezone.utc), time.monotonic_ns(), image=rgb)
            number += 1
            image = _read(video)
        if number < announced:
            error = f"{self._path} ended after {number} of {announced} frames. Copy or record it again."
            yield Frame(str(number), datetime.now(timezone.utc), time.monotonic_ns(), error=error, reason="no_frame")

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


def _rounds(loop: int | bool) -> int | None:
    """Rounds to play; None: without end."""
    if loop < 0:
        raise CameraError(f"loop is {loop}; give the number of rounds, or 0 (or true) to go on for ever.")
    if isinstance(loop, bool):
        return None if loop else 1
    return loop or None


def _parts(folder: Path) -> Iterator[Path]:
    """The image files below `folder`, in no order; OSError for a folder that can't be listed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _parts(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _read(video: Any) -> np.ndarray | None:
    try:
        good, image = video.read()
    except cv2.error:
        return None
    return image if good else None
