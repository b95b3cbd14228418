"""A folder of pictures as a camera, and how often a recording is replayed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent import clock
from edge_agent.cameras.frame import CameraError, Frame
from edge_agent.preprocess import IMAGE_SUFFIXES, ImageError, read_image


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
        self._rounds = rounds_of(loop)
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
        name, now = path.relative_to(self._folder).as_posix(), (clock.utc(), time.monotonic_ns())
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


def rounds_of(loop: int | bool) -> int | None:
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
