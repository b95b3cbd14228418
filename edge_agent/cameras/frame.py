"""What every camera gives, and how it is asked. Nothing is skipped: what can't be read is a Frame with an error.

A frame that can't be used is one part's trouble, and its part is `unknown`; a camera that can give no frames is a
CameraError.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np

# Why a camera's frame is `unknown`; docs/cameras.md says what each means and what to do.
CameraReason = Literal[
    "bad_frame",  # it can't be decoded, or parts of it got lost on the way
    "no_frame",  # there was none where one was due
    "overrun",  # triggers came faster than the engine: the part was never scored
    "stalled",  # a live camera gives nothing: unplugged, hung, not reachable
    "frozen",  # the same picture again and again
    "black",  # lamp off, lens covered
    "over_exposed",  # nearly every pixel is saturated
    "blurred",  # out of focus, or moved
    "wrong_size",  # another resolution than before, or smaller than the model's crop
    "wrong_color",  # grey where colour was, colour where grey was, or red and blue swapped
]


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
    reason: CameraReason | None = None  # of the error
    asked: int | None = None  # the number of the request that it answers, where the camera was asked (live.py)


class Camera(Protocol):
    """A source of frames. One thread iterates `frames`; `close` may come from another and ends the iteration."""

    name: str

    def frames(self) -> Iterator[Frame]:
        """Frames in order, each once, until the source ends or is closed. CameraError where it breaks down."""
        ...

    def close(self) -> None: ...
