"""How often commands may come, and how far they may move the threshold."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

from edge_agent.commands.requests import Refusal
from edge_agent.config import ThresholdLimits

HOUR_S = 3600.0
ROUNDING = 1e-9  # 1.0 -> 1.1 is a step of 0.1


class Rate:
    """At most `per_minute` in any 60 seconds of the monotonic clock."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float] = time.monotonic):
        self._limit, self._monotonic = per_minute, monotonic
        self._moments: deque[float] = deque()

    def allows(self) -> bool:
        """Is there room for one more; if so it counts."""
        now = self._monotonic()
        while self._moments and self._moments[0] <= now - 60.0:
            self._moments.popleft()
        if len(self._moments) >= self._limit:
            return False
        self._moments.append(now)
        return True


class ThresholdBudget:
    """Range, step, and the sum of changes in an hour of the monotonic clock.

    spent: changes of an earlier run; a clock that was set can't free them, so each counts for an hour from now on.
    """

    def __init__(
        self,
        limits: ThresholdLimits,
        spent: Iterable[float] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._limits, self._monotonic = limits, monotonic
        self._changes = deque((monotonic(), amount) for amount in spent)

    def refuses(self, present: float, wanted: float) -> Refusal | None:
        limits, change = self._limits, abs(wanted - present)
        if not (math.isfinite(wanted) and limits.min <= wanted <= limits.max):
            return Refusal(
                "out_of_range",
                f"The threshold {wanted:g} lies outside {limits.min:g} to {limits.max:g}, the range here.",
            )
        if change > limits.step + ROUNDING:
            return Refusal(
                "step_too_large",
                f"From {present:g} to {wanted:g} is a step of {change:g}; one command may move it by {limits.step:g}.",
            )
        left = round(limits.per_hour - sum(self.spent), 9)
        if change > left + ROUNDING:
            return Refusal(
                "hourly_limit",
                f"From {present:g} to {wanted:g} is a change of {change:g}; {max(left, 0.0):g} are left of the "
                f"{limits.per_hour:g} that an hour allows. undo is always allowed.",
            )
        return None

    def spend(self, amount: float) -> None:
        self._changes.append((self._monotonic(), amount))

    @property
    def spent(self) -> list[float]:
        """The changes of the past hour."""
        while self._changes and self._changes[0][0] <= self._monotonic() - HOUR_S:
            self._changes.popleft()
        return [amount for _, amount in self._changes]
