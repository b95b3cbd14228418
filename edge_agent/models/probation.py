"""The first parts of a new model: where it can't judge too many of them, the one before comes back."""

import time
from collections import Counter
from collections.abc import Callable

from edge_agent.decision import UnknownReason

# What a model, or its engine, is to blame for.
FAILURES: frozenset[UnknownReason] = frozenset(
    ("engine_failed", "wrong_shape", "not_finite", "negative_score", "constant_map", "wrong_size")
)


class Probation:
    """Watches the parts that the bundle of this digest judges; over when there were enough, or for long enough."""

    def __init__(
        self, digest: str, *, parts: int, seconds: float, most: int, monotonic: Callable[[], float] = time.monotonic
    ):
        self._digest, self._parts, self._most = digest, parts, most
        self._monotonic, self._ends = monotonic, monotonic() + seconds
        self.failures: Counter[str] = Counter()
        self.watched = 0

    def note(self, digest: str, reason: UnknownReason | None, framed: bool) -> None:
        """A part with its reason, if it is unknown. framed: the camera gave a frame that could be decoded."""
        if digest != self._digest or self.watched >= self._parts or self.failed:
            return
        self.watched += 1
        if reason in FAILURES and framed:
            self.failures[reason] += 1

    @property
    def failed(self) -> bool:
        return self.failures.total() > self._most

    @property
    def over(self) -> bool:
        """It has passed."""
        return not self.failed and (self.watched >= self._parts or self._monotonic() >= self._ends)

    def __str__(self) -> str:
        """What went wrong, a sentence's part."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.failures.most_common())
        return f"{self.failures.total()} of its first {self.watched} parts could not be judged ({reasons})"
