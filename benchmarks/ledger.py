"""The zero-loss ledger: parts triggered = verdicts given = verdicts received, while the broker comes and goes.

    python benchmarks/ledger.py --triggers 2000 [--outages 5] [--seed 0] [--json FILE]

Runs the agent as a process on a replayed line against a real Mosquitto that is stopped and started at random moments,
and counts with a subscriber that shares no code with the agent. Exits 1 when the ledger doesn't balance.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "edge_agent"))

from line import RunningAgent, make_line
from mosquitto import Key, Mosquitto, Subscriber, key

CYCLE_S = 0.005  # from part to part


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

    def balances(self, triggers: int) -> bool:
        """Every trigger has exactly one verdict, and every verdict has arrived, unaltered and in order."""
        counts = {triggers, len(self.given), len(set(map(key, self.received)))}
        return len(counts) == 1 and not (self.missing or self.disagreeing or self.out_of_order or self.gaps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", type=int, default=1000, help="parts to send down the line")
    parser.add_argument("--outages", type=int, default=3, help="times the broker is stopped and started meanwhile")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the outages")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    if options.triggers < 1 or options.outages < 0:
        parser.error("--triggers must be at least 1, --outages at least 0")
    with tempfile.TemporaryDirectory() as folder:
        ledger, log = run_line(Path(folder), options.triggers, options.outages, random.Random(options.seed))
    numbers = account(ledger, options.triggers)
    for name, value in numbers.items():
        print(f"{name:28} {value}")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    if numbers["balances"]:
        return 0
    print(f"The ledger does not balance. Missing: {ledger.missing[:5]}, gaps: {ledger.gaps}. The agent's log:\n{log}")
    return 1


def run_line(folder: Path, triggers: int, outages: int, moments: random.Random) -> tuple[Ledger, str]:
    """One run of the agent over so many triggers; the ledger, and the agent's log."""
    parts = next(n for n in range(min(triggers, 200), 0, -1) if triggers % n == 0)
    camera = {"top": {"kind": "folder", "path": "parts", "loop": triggers // parts, "interval_s": CYCLE_S}}
    broker = Mosquitto(folder / "broker").start()
    subscriber = Subscriber(broker.port)
    mqtt = {"drain_timeout_s": 60.0, "replay_per_s": 2000.0}
    config = make_line(folder, port=broker.port, parts=parts, cameras=camera, mqtt=mqtt)
    ended = threading.Event()

    def go_down_and_up() -> None:
        for _ in range(outages):
            if ended.wait(moments.uniform(0.0, 2.0) * triggers * CYCLE_S / (outages + 1)):
                return
            broker.stop()
            ended.wait(moments.uniform(0.1, 1.0))
            broker.start()

    with RunningAgent(config) as agent:
        agent.wait_given(1)
        restless = threading.Thread(target=go_down_and_up)
        restless.start()
        agent.wait_for(lambda agent: len(agent.printed) >= triggers, timeout=60 + 10 * triggers * CYCLE_S)
        ended.set()
        restless.join()
        agent.wait(120)
        ledger = Ledger(set(map(key, agent.given)))
        log = agent.log
    subscriber.settle(ledger.given)
    ledger.received = list(subscriber.results)
    subscriber.close()
    broker.stop()
    return ledger, log


def account(ledger: Ledger, triggers: int) -> dict[str, Any]:
    latencies = sorted({key(result): result["latency_ms"] for result in ledger.received}.values()) or [float("nan")]
    return {
        "parts triggered": triggers,
        "verdicts given": len(ledger.given),
        "verdicts received": len(set(map(key, ledger.received))),
        "received twice": ledger.duplicates,
        "received late (historical)": sum(result["historical"] for result in ledger.received),
        "missing": len(ledger.missing),
        "gaps in sequence": sum(map(len, ledger.gaps.values())),
        "out of order": len(ledger.out_of_order),
        "twice and different": len(ledger.disagreeing),
        "latency ms, median": latencies[len(latencies) // 2],
        "latency ms, 99.9 %": latencies[min(len(latencies) - 1, int(0.999 * len(latencies)))],
        "balances": ledger.balances(triggers),
    }


if __name__ == "__main__":
    sys.exit(main())
