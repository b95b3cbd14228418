"""A part's id from a barcode or QR code in its frame, read beside the engine so that nobody waits for it for long."""

import contextlib
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import cv2
import numpy as np

from edge_agent.parts.settings import CodeConfig

LONGEST = 128  # characters; a code that holds more names no part
SEARCHED_PIXELS = 1_500_000  # no larger picture is searched: that takes too long
SMALLEST_SIDE = 150  # a picture is searched halved, and again, down to this: detectors miss codes that are too large


class Reading:
    """A code that is being read."""

    def __init__(self, future: "Future[str | None]", until: float):
        self._future, self._until = future, until

    def text(self) -> str | None:
        """Waits until it is read or its time is up. None: no code was found."""
        try:
            return self._future.result(max(0.0, self._until - time.monotonic()))
        except (FutureTimeout, CancelledError, cv2.error):
            self._future.cancel()
            return None


class CodeReader:
    """Reads one picture after the other in a thread of its own."""

    def __init__(self, config: CodeConfig):
        self._config = config
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="codes")
        self._qr, self._barcode = cv2.QRCodeDetector(), cv2.barcode.BarcodeDetector()

    def begin(self, image: np.ndarray) -> Reading:
        """uint8 [h, w, 3] RGB; returns at once."""
        until = time.monotonic() + self._config.timeout_ms / 1000
        return Reading(self._pool.submit(self._read, image, until), until)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, image: np.ndarray, until: float) -> str | None:
        if self._config.region is not None:
            x, y, width, height = self._config.region
            image = image[y : y + height, x : x + width]
        if not image.size or time.monotonic() > until:
            return None
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        sizes = [grey]
        while min(sizes[-1].shape) >= 2 * SMALLEST_SIDE or sizes[-1].size > SEARCHED_PIXELS:
            sizes.append(cv2.resize(sizes[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        for size in reversed(sizes):  # the small ones take next to nothing
            if size.size > SEARCHED_PIXELS or time.monotonic() > until:
                return None
            if (found := self._find(size)) is not None:
                return found
        return None

    def _find(self, grey: np.ndarray) -> str | None:
        if self._config.kind != "barcode":
            with contextlib.suppress(cv2.error, UnicodeDecodeError):  # of a pattern that only resembles a code
                smooth = cv2.GaussianBlur(grey, (5, 5), 0)  # a sensor's noise costs the detector most of its time
                if name := _as_name(self._qr.detectAndDecode(smooth)[0]):
                    return name
        if self._config.kind != "qr":
            with contextlib.suppress(cv2.error, UnicodeDecodeError):
                for text in self._barcode.detectAndDecodeWithType(grey)[1]:
                    if name := _as_name(text):
                        return name
        return None


def _as_name(text: str) -> str | None:
    text = text.strip()
    return text if 0 < len(text) <= LONGEST and text.isprintable() else None
