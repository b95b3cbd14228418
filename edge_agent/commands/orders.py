"""The orders in force: threshold and pause, their limits, and how they are undone."""

import time
from collections.abc import Callable
from dataclasses import replace

from edge_agent.commands.effect import Effect, ended
from edge_agent.commands.limits import ThresholdBudget
from edge_agent.commands.memory import Kept, Standing
from edge_agent.commands.requests import Command, Pause, Refusal, Resume, SetThreshold
from edge_agent.config import CommandsConfig
from edge_agent.control import Control
from edge_agent.messages import Commanded


class Orders:
    """set_threshold, pause and resume; `standing` is what holds by the last of them."""

    def __init__(
        self,
        config: CommandsConfig,
        control: Control,
        standing: Standing,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._control, self.standing = control, standing
        self._budget = ThresholdBudget(config.threshold, standing.spent, monotonic)

    def refuses(self, request: Command) -> Refusal | None:
        if not isinstance(request, SetThreshold):
            return None
        if (wanted := request.arguments.threshold) is not None:
            return self._budget.refuses(self.standing.threshold, wanted)
        if not self.standing.earlier:
            return Refusal("nothing_to_undo", "No command has changed the threshold.")
        return None

    def accept(self, request: SetThreshold | Pause | Resume, about: Commanded) -> Effect:
        if isinstance(request, SetThreshold):
            standing, outcome = self._with_threshold(request, about)
        else:
            standing = replace(self.standing, paused=isinstance(request, Pause))
            outcome = ended(
                about, None, "No part is judged until `resume`." if standing.paused else "Parts are judged."
            )
        before, self.standing = self.standing, standing
        return Effect(self._give, standing.kept() if standing != before else {}, outcome)

    def for_another_bundle(self, threshold: float, *, bundle: str, gone: str | None) -> Kept:
        """A threshold that a command had set was meant for the bundle before: the file's holds again.

        bundle: digest of the first bundle in service from now on. gone: of the one that serves no more; parts that it
        was given are still compared with its own limit.
        """
        before = self.standing
        self.standing = replace(before, threshold=threshold, earlier=(), configured=threshold, bundle=bundle)
        self._control.exchange(threshold, gone)
        return self.standing.kept()

    def as_before(self, standing: Standing, *, gone: str | None) -> Kept:
        """The bundle before serves again, under the orders that it had. gone: as in `for_another_bundle`."""
        self.standing = replace(standing, paused=self.standing.paused, spent=tuple(self._budget.spent))
        self._control.exchange(standing.threshold, gone)
        return self.standing.kept()

    def _with_threshold(self, request: SetThreshold, about: Commanded) -> tuple[Standing, Commanded]:
        before, wanted = self.standing, request.arguments.threshold
        if wanted is None:
            after = before.undone()
        else:
            self._budget.spend(abs(wanted - before.threshold))
            after = before.with_threshold(wanted, tuple(self._budget.spent))
        change = {"threshold": after.threshold, "threshold_before": before.threshold}
        detail = f"The threshold went from {before.threshold:g} to {after.threshold:g}."
        return after, ended(about, None, detail).model_copy(update=change)

    def _give(self) -> int:
        return self._control.order(threshold=self.standing.threshold, paused=self.standing.paused)
