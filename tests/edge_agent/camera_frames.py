"""Frames of a live camera, as many as a test waits for."""

import threading
from collections.abc import Callable
from contextlib import closing

from edge_agent.cameras.frame import Camera, Frame


def frames_until(camera: Camera, happened: Callable[[list[Frame]], bool], *, patience_s: float = 60.0) -> list[Frame]:
    """Frames up to the one that makes it happen; what comes too late is a failure, not a wait for ever."""
    frames: list[Frame] = []
    too_late = threading.Timer(patience_s, camera.close)
    too_late.start()
    with closing(camera.frames()) as stream:
        for frame in stream:
            frames.append(frame)
            if happened(frames):
                too_late.cancel()
                return frames
    raise AssertionError([(frame.name, frame.error) for frame in frames[-5:]])
