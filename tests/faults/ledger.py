"""The zero-loss ledger: what the agent said it gave against what an independent subscriber got."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mosquitto import Key, key


@dataclass
class Ledger:
    """given: printed by the agent, hence durable. received: in the order of arrival, duplicates included."""

    given: set[Key] = field(default_factory=set)
    received: list[dict[str, Any]] = field(default_factory=list)

    def add_given(self, results: Iterable[dict[str, Any]]) -> None:
        self.given.update(map(key, results))

    @property
    def missing(self) -> list[Key]:
        return sorted(self.given - set(map(key, self.received)))

    @property
    def disagreeing(self) -> list[Key]:
        """Parts that arrived twice with different verdicts or scores."""
        said: dict[Key, set[str]] = defaultdict(set)
        for result in self.received:
            said[key(result)].add(str({**result, "historical": None}))
        return sorted(each for each, texts in said.items() if len(texts) > 1)

    @property
    def duplicates(self) -> int:
        return len(self.received) - len(set(map(key, self.received)))

    @property
    def out_of_order(self) -> list[tuple[Key, Key]]:
        """First arrivals that came after a later one of the same camera, boot and stream."""
        seen: set[Key] = set()
        newest: dict[tuple[str, str, int, bool], Key] = {}
        wrong = []
        for result in self.received:
            this = key(result)
            if this in seen:
                continue
            seen.add(this)
            stream = (*this[:3], result["historical"])
            if stream in newest and newest[stream] > this:
                wrong.append((newest[stream], this))
            newest[stream] = this
        return wrong

    @property
    def gaps(self) -> dict[tuple[str, str, int], list[int]]:
        """Sequence numbers below the highest of their boot that never arrived."""
        numbers: dict[tuple[str, str, int], set[int]] = defaultdict(set)
        for device, camera, boot, sequence in set(map(key, self.received)):
            numbers[device, camera, boot].add(sequence)
        found = {boot: sorted(set(range(max(known))) - known) for boot, known in numbers.items()}
        return {boot: missing for boot, missing in found.items() if missing}
