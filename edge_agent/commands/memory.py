"""What must be known after a power cut: which commands were answered and how, and which orders stand."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from edge_agent.config import COMMANDS_REMEMBERED, CommandsConfig
from edge_agent.messages import Commanded

log = logging.getLogger(__name__)

ORDERS, COMMAND = "orders", "command/"  # names of kept values
EARLIER = 16  # thresholds that undo can go back to

Kept = dict[str, bytes | None]


class Remembered(NamedTuple):
    """A command that was answered."""

    number: int  # rises with time
    digest: str
    answer: str  # the payload of the last ack
    executed: bool  # not refused: outlives all that were
    outcome: Commanded | None = None  # what is still to be said, where that is known before it has happened
    open: bool = False  # accepted, and not done or failed yet


class Memory:
    """Command ids with their answers, the newest of each kind; what a caller keeps in the outbox with each change."""

    def __init__(self, kept: Mapping[str, bytes]):
        self._by_id: dict[str, Remembered] = {}
        for name, value in kept.items():
            if name.startswith(COMMAND) and (found := _read(value)) is not None:
                self._by_id[name.removeprefix(COMMAND)] = found
        self._number = max((each.number for each in self._by_id.values()), default=0)

    def get(self, command_id: str) -> Remembered | None:
        return self._by_id.get(command_id)

    def open(self) -> Iterator[tuple[str, Remembered]]:
        """Accepted, and not done or failed yet."""
        yield from [(name, each) for name, each in self._by_id.items() if each.open]

    def note(
        self,
        command_id: str,
        digest: str,
        answer: bytes,
        *,
        executed: bool,
        outcome: Commanded | None = None,
        open: bool = False,
    ) -> Kept:
        """Remember, and forget the oldest of the same kind; the values to keep."""
        known = self._by_id.get(command_id)
        if known is None:
            self._number += 1
        number = self._number if known is None else known.number
        each = Remembered(number, digest, answer.decode(), executed, outcome, open)
        self._by_id[command_id] = each
        kept: Kept = {COMMAND + command_id: _written(each)}
        like = [name for name, other in self._by_id.items() if other.executed == executed and not other.open]
        like.sort(key=lambda name: self._by_id[name].number)
        for name in like[:-COMMANDS_REMEMBERED]:
            del self._by_id[name]
            kept[COMMAND + name] = None
        return kept


@dataclass(frozen=True)
class Standing:
    """The orders in force, and how they came about."""

    threshold: float
    paused: bool = False
    earlier: tuple[float, ...] = ()  # thresholds before, newest last
    spent: tuple[float, ...] = ()  # changes of the past hour
    configured: float = 1.0  # the file's own threshold when this was written
    bundle: str = ""  # digest of the bundle that the threshold was set for

    def kept(self) -> Kept:
        return {ORDERS: json.dumps(asdict(self)).encode()}

    def with_threshold(self, threshold: float, spent: tuple[float, ...]) -> "Standing":
        earlier = (*self.earlier, self.threshold)[-EARLIER:]
        return replace(self, threshold=threshold, earlier=earlier, spent=spent)

    def undone(self) -> "Standing":
        return replace(self, threshold=self.earlier[-1], earlier=self.earlier[:-1])


def restore(kept: Mapping[str, bytes], config: CommandsConfig, threshold: float, bundle: str) -> Standing:
    """The orders that stood when the agent ended, as far as they still make sense; otherwise those of the file.

    A threshold set by command yields to a file whose own was edited since, and to another bundle: it was meant for that
    one. With commands switched off the file alone counts, for nobody could undo anything else.
    """
    fresh = Standing(threshold, configured=threshold, bundle=bundle)
    if (value := kept.get(ORDERS)) is None:
        return fresh
    try:
        fields = json.loads(value)
        found = Standing(**{**fields, "earlier": tuple(fields["earlier"]), "spent": tuple(fields["spent"])})
    except (ValueError, TypeError, KeyError):  # another version's
        log.warning("The orders of the last run can't be read; the file's threshold, %g, holds.", threshold)
        return fresh
    if not config.enabled:
        if found.paused or found.threshold != threshold:
            log.warning("Commands are switched off: the threshold is the file's, %g, and no pause holds.", threshold)
        return fresh
    same = found.configured == threshold and found.bundle == bundle
    if same and config.threshold.min <= found.threshold <= config.threshold.max:
        if found.paused or found.threshold != threshold:
            log.info("Orders of the last run hold: threshold %g%s.", found.threshold, ", paused" * found.paused)
        return found
    if found.threshold != threshold:
        log.warning(
            "The threshold %g that a command had set is given up for the file's, %g: the file, its limits or the "
            "bundle have changed since.",
            found.threshold,
            threshold,
        )
    return replace(fresh, paused=found.paused, spent=found.spent)


def _written(each: Remembered) -> bytes:
    outcome = None if each.outcome is None else each.outcome.model_dump(mode="json")
    return json.dumps({**each._asdict(), "outcome": outcome}).encode()


def _read(value: bytes) -> Remembered | None:
    try:
        fields = json.loads(value)
        outcome = fields.pop("outcome")
        return Remembered(**fields, outcome=None if outcome is None else Commanded.model_validate(outcome))
    except (ValueError, TypeError, KeyError):  # another version's
        return None
