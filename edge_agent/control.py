"""What the line is told while it runs: another threshold, a pause, to show a frame, a question to its engine.

The stages ask between two parts; other threads tell. Nothing here knows MQTT.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_agent.cameras import Frame
from edge_agent.engines import EngineError, Scores
from edge_agent.models.judge import Judge

Shown = Callable[[int, Mapping[str, Frame]], None]  # the part's number, and what each camera gave
Answer = Callable[[Scores | None, str | None], None]  # the scores, or the sentence why there are none
Pose = Callable[[Judge, np.ndarray, Answer], None]


@dataclass(frozen=True)
class Orders:
    """What holds for a part: the limit that its score is compared with, and whether it is judged at all."""

    threshold: float
    paused: bool = False
    number: int = 0  # rises with each change
    former: tuple[str, float] | None = None  # a bundle that serves nowhere any more, and the limit for its last parts

    def limit(self, digest: str) -> float:
        """What a score of the bundle with this digest is compared with."""
        return self.former[1] if self.former is not None and self.former[0] == digest else self.threshold


class Control:
    """Orders from any thread to the stages of one run."""

    def __init__(self, threshold: float = 1.0, *, paused: bool = False):
        self._lock = threading.Lock()
        self._orders = Orders(threshold, paused)
        self._in_hand: int | None = None  # number of the orders under which a part is being decided now
        self._wanted: Shown | None = None
        self._pose: Pose | None = None

    @property
    def orders(self) -> Orders:
        return self._orders

    def order(self, *, threshold: float | None = None, paused: bool | None = None) -> int:
        """In force from the next part on; the number that `settled` takes."""
        with self._lock:
            now = self._orders
            self._orders = replace(
                now,
                threshold=now.threshold if threshold is None else threshold,
                paused=now.paused if paused is None else paused,
                number=now.number + 1,
            )
            return self._orders.number

    def exchange(self, threshold: float, gone: str | None) -> None:
        """Another bundle serves from now on. gone: digest of the one that serves nowhere any more; None: there is none.

        Its last parts are compared with the limit until now.
        """
        with self._lock:
            now = self._orders
            former = None if gone is None else (gone, now.threshold)
            self._orders = replace(now, threshold=threshold, number=now.number + 1, former=former)

    def settled(self, number: int) -> bool:
        """Has every part that was decided under older orders been handed on?"""
        with self._lock:
            return self._in_hand is None or self._in_hand >= number

    def take_up(self) -> Orders:
        """The decision begins with a part; these are its orders until `hand_on`."""
        with self._lock:
            self._in_hand = self._orders.number
            return self._orders

    def hand_on(self) -> None:
        """The verdict on that part has left the decision."""
        with self._lock:
            self._in_hand = None

    def want_frame(self, shown: Shown | None) -> None:
        """Call `shown` once, with the next part's frames; it must return at once. None: no more."""
        self._wanted = shown

    def show(self, sequence: int, frames: Mapping[str, Frame]) -> None:
        """A new part, by camera."""
        if (shown := self._wanted) is not None:
            self._wanted = None
            shown(sequence, frames)

    def connect(self, pose: Pose | None) -> None:
        """How a question gets to a judge's engine; None: no more."""
        self._pose = pose

    def ask(self, judge: Judge, image: np.ndarray, timeout_s: float) -> Scores:
        """What a judge that is being held says about one image, uint8 [1, h, w, 3], asked between two parts.

        EngineError where it fails, or gives no answer in time.
        """
        answered, answers = threading.Event(), []

        def answer(scores: Scores | None, trouble: str | None) -> None:
            answers.append((scores, trouble))
            answered.set()

        if (pose := self._pose) is None:
            raise EngineError("No line runs.")
        pose(judge, image, answer)
        if not answered.wait(timeout_s):
            raise EngineError(f"The engine gave no answer within {timeout_s:g} s.")
        scores, trouble = answers[0]
        if scores is None:
            raise EngineError(trouble or "The engine failed.")
        return scores
