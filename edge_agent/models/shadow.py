"""Both bundles score the same parts, and only the one in service gives verdicts: how often would the other differ?"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

import numpy as np

from edge_agent.decision import Verdict, decide
from edge_agent.models.judge import Judge
from edge_agent.preprocess import prepare

WAITING = 2  # frames; a part that comes while so many wait is not compared, for the line never waits
LOOK_S = 0.2
ROUNDING = 1e-9  # 0.07 of 100 parts are 7

Place = tuple[str, int]  # camera, sequence


@dataclass(frozen=True)
class Compared:
    """What came of it. A part that the new model can't judge counts as a flip."""

    parts: int = 0
    flips: int = 0
    unknown: int = 0  # of the flips: the new model gave no verdict

    @property
    def flip_rate(self) -> float:
        return self.flips / self.parts if self.parts else 0.0


class Shadow:
    """The comparison of `new` with the judges that it is to replace, over `parts` parts that these gave a verdict on.

    threshold: what the new model's scores are compared with. `show` and `note` return at once, from any thread; `run`
    does the work in the caller's.
    """

    def __init__(
        self,
        new: Judge,
        digest: str,
        *,
        threshold: float,
        parts: int,
        max_flip_rate: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._new, self._digest, self._threshold = new, digest, threshold
        self.parts, self._monotonic = parts, monotonic
        self.most_flips = int(max_flip_rate * parts + ROUNDING)
        self._lock = threading.Lock()
        self._frames: Queue[tuple[Place, np.ndarray]] = Queue(WAITING)
        self._verdicts: dict[Place, list[Verdict | None]] = {}  # [in service, new] of parts that were shown
        self.compared = Compared()

    def show(self, judge: Judge, camera: str, sequence: int, image: np.ndarray) -> None:
        """A frame that `judge` is about to get, uint8 [h, w, 3]; nobody may change it any more."""
        if judge.model.digest != self._digest or self.done:
            return
        place = (camera, sequence)
        with self._lock:
            self._verdicts[place] = [None, None]
        try:
            self._frames.put_nowait((place, image))
        except Full:
            with self._lock:
                del self._verdicts[place]

    def note(self, camera: str, sequence: int, digest: str, verdict: Verdict) -> None:
        """What the bundle of this digest says of a part."""
        if digest == self._digest:
            self._set((camera, sequence), 0, verdict)

    @property
    def done(self) -> bool:
        """Enough parts, or too many flips for any more parts to make up for."""
        return self.compared.parts >= self.parts or self.failed

    @property
    def failed(self) -> bool:
        return self.compared.flips > self.most_flips

    def run(self, timeout_s: float, cancelled: threading.Event) -> Compared:
        """Score what is shown until it is done, cancelled, or the time has run out."""
        deadline = self._monotonic() + timeout_s
        while not self.done and not cancelled.is_set() and self._monotonic() < deadline:
            try:
                place, image = self._frames.get(timeout=LOOK_S)
            except Empty:
                continue
            self._set(place, 1, self._verdict(image))
        return self.compared

    def _verdict(self, image: np.ndarray) -> Verdict:
        try:
            ready = prepare(image, self._new.preprocessing)
            return decide(self._new.engine.run(ready[None]), self._threshold).verdict
        except Exception:  # its crop doesn't fit the frame, or the engine failed: as in the line
            return "unknown"

    def _set(self, place: Place, side: int, verdict: Verdict) -> None:
        with self._lock:
            if (pair := self._verdicts.get(place)) is None:
                return
            pair[side] = verdict
            old, new = pair
            if old is None or new is None:
                return
            del self._verdicts[place]
            if old != "unknown" and not self.done:
                before = self.compared
                self.compared = Compared(
                    before.parts + 1, before.flips + (old != new), before.unknown + (new == "unknown")
                )
