"""The zero-loss ledger: parts triggered = verdicts stored = verdicts received, whatever breaks meanwhile.

    python benchmarks/ledger.py [--triggers 10000] [--rate 50] [--kills 5] [--seed 0] [--json FILE]

Runs the agent as a process on a replayed line. At random moments, every few seconds, the broker (a real Mosquitto) is
stopped or killed (SIGKILL) and started again, the link between them is cut or half-opened by a proxy, or the engine's
process is killed; the agent itself is killed (SIGKILL) so many times. Counts with a subscriber that shares no code with
the agent, and judges every part a second time, on its own. Exits 1 when the ledger doesn't balance.

A part is triggered when the camera gives its frame. A kill takes the parts in the agent's hands with it: their numbers
follow the last stored one, no verdict of them was said, and the camera of the next life shows the same files anew.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "edge_agent"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import tiny_bundle
import yaml
from children import kill_children
from line import RunningAgent, make_line
from mosquitto import Key, Mosquitto, Subscriber, key
from proxy import Proxy

PARTS = 50  # files of a round
BROKEN = 5  # of them can't be read
PAUSE_S = (1.5, 4.0)  # from one trouble to the next
KEEPALIVE_S = 3
SETTLE_S = 90.0  # for the last verdicts to arrive


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
        return triggers == len(set(map(key, self.received))) and not (
            self.missing or self.disagreeing or self.out_of_order or self.gaps
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", type=int, default=10_000, help="parts to send down the line")
    parser.add_argument("--rate", type=float, default=50.0, help="parts per second")
    parser.add_argument("--kills", type=int, default=5, help="times the agent is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds of trouble")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    if options.triggers < PARTS * (options.kills + 1) or options.kills < 0 or options.rate <= 0:
        parser.error(f"--triggers must be at least {PARTS} for each life of the agent, --kills >= 0, --rate > 0")
    with tempfile.TemporaryDirectory() as folder:
        line = Line(Path(folder), options.rate, random.Random(options.seed))
        line.run(options.triggers, options.kills)
    numbers = account(line)
    for name, value in numbers.items():
        print(f"{name:34} {value}")
    if options.json:
        options.json.write_text(json.dumps({**numbers, "seed": options.seed, "rate": options.rate}, indent=1) + "\n")
    if numbers["balances"]:
        return 0
    print(f"The ledger does not balance. Missing: {line.ledger.missing[:5]}, gaps: {line.ledger.gaps}. The last log:")
    print(line.log)
    return 1


class Line:
    """Broker, proxy, subscriber and agent; `run` breaks them and fills the ledger."""

    def __init__(self, folder: Path, rate: float, moments: random.Random):
        saved = ("autosave_on_changes true", "autosave_interval 1", "max_inflight_messages 0")
        self._broker = Mosquitto(folder / "broker", lines=saved).start()
        self._subscriber = Subscriber(self._broker.port)
        self._proxy = Proxy(self._broker.port)
        mqtt = {"drain_timeout_s": SETTLE_S, "replay_per_s": 2000.0, "keepalive_s": KEEPALIVE_S}
        self._config = make_line(folder, port=self._proxy.port, parts=PARTS, mqtt=mqtt)
        self._rate, self._moments = rate, moments
        self._agent: RunningAgent | None = None
        self._ended = threading.Event()
        parts = tiny_bundle.parts(PARTS)
        scores = tiny_bundle.golden_arrays(parts)["image_score"]
        self._right = {f"{n:03}.png": "pass" if score <= 1.0 else "reject" for n, score in enumerate(scores)}
        for number in moments.sample(range(PARTS), BROKEN):
            path = folder / "parts" / f"{number:03}.png"
            path.write_bytes(path.read_bytes()[:-20])
            self._right[path.name] = "unknown"
        self.ledger, self.log = Ledger(), ""
        self.troubles: Counter[str] = Counter()
        self._given, self._finite = 0, 0  # verdicts so far; parts of the last life, which ends by itself

    def run(self, triggers: int, kills: int) -> None:
        """So many parts, in `kills` + 1 lives of the agent; the last one ends by itself when its parts are through."""
        trouble = threading.Thread(target=self._make_trouble)
        trouble.start()
        try:
            for life in range(kills):
                goal = triggers * (life + 1) // (kills + 1)
                self._live(loop=0, until=goal - self._given - self._moments.randrange(10))
            left = -(-(triggers - self._given) // PARTS)
            self._live(loop=left, until=None)
        finally:
            self._ended.set()
            trouble.join(60)
        self._subscriber.settle(self.ledger.given, quiet_s=30.0)
        self.ledger.received = list(self._subscriber.results)
        self._subscriber.close()
        self._proxy.close()
        self._broker.stop()

    def _live(self, *, loop: int, until: int | None) -> None:
        """One life of the agent: killed after so many verdicts, or to its end."""
        config = yaml.safe_load(self._config.read_text())
        config["cameras"] = {
            "top": {"kind": "folder", "path": "parts", "loop": loop, "interval_s": 1.0 / self._rate}
        }  # fmt: skip
        self._config.write_text(yaml.safe_dump(config))
        with RunningAgent(self._config) as agent:
            self._agent = agent
            if until is None:
                expected = loop * PARTS
                agent.wait_for(lambda a: len(a.printed) >= expected, timeout=60 + 5 * expected / self._rate)
                self._ended.set()  # what is on its way shall arrive
                code = agent.wait(SETTLE_S + 60)
                assert code == 0, agent.log
                self._finite = expected
            else:
                agent.wait_for(lambda a: len(a.printed) >= until, timeout=60 + 5 * until / self._rate)
                agent.end(signal.SIGKILL)
                self.troubles["agent killed"] += 1
            self._agent = None
        self._given += len(agent.given)
        self.ledger.add_given(agent.given)
        self.log = agent.log

    def _make_trouble(self) -> None:
        kinds = (
            self._stop_broker, self._kill_broker, self._cut, self._cut_and_refuse,
            lambda: self._half_open("up"), lambda: self._half_open("down"), lambda: self._half_open("up", "down"),
            self._kill_engine,
        )  # fmt: skip
        order: list[Any] = []
        while not self._ended.wait(self._moments.uniform(*PAUSE_S)):
            order = order or self._moments.sample(kinds, len(kinds))
            order.pop()()

    def _stop_broker(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._broker.stop(number)
        self._ended.wait(self._moments.uniform(0.1, 1.0))
        self._broker.start()
        self.troubles["broker killed" if number == signal.SIGKILL else "broker stopped"] += 1

    def _kill_broker(self) -> None:
        self._stop_broker(signal.SIGKILL)

    def _cut(self) -> None:
        self._proxy.cut()
        self.troubles["link cut"] += 1

    def _cut_and_refuse(self) -> None:
        self._proxy.cut(refuse=True)
        self._ended.wait(self._moments.uniform(0.1, 1.5))
        self._proxy.mend()
        self.troubles["link cut for a while"] += 1

    def _half_open(self, *ways: Any) -> None:
        self._proxy.go_silent(*ways)
        self._ended.wait(1.5 * KEEPALIVE_S)  # until the agent must have noticed
        self.troubles[f"link half-open ({' and '.join(ways)})"] += 1

    def _kill_engine(self) -> None:
        agent = self._agent
        if agent is not None and agent.printed:
            self.troubles["engine killed"] += kill_children(agent.pid)

    @property
    def stored(self) -> set[Key]:
        """Printed after they were durable; or received, hence durable, though a kill came before they were printed."""
        return self.ledger.given | set(map(key, self.ledger.received))

    @property
    def triggered(self) -> int:
        """Of the last life all that the camera had; of those before, all up to the last number that was stored."""
        highest: dict[int, int] = {}
        for _, _, boot, sequence in self.stored:
            highest[boot] = max(highest.get(boot, 0), sequence)
        killed = sorted(highest)[:-1]
        return sum(highest[boot] + 1 for boot in killed) + self._finite

    @property
    def wrongly_said(self) -> list[Key]:
        """A `pass` without a score or of a part that is none; any other verdict than the part's own, but unknown."""
        wrong = []
        for result in self.ledger.received:
            unscored = result["verdict"] == "pass" and (result["image_score"] is None or result["reason"] is not None)
            if unscored or result["verdict"] not in ("unknown", self._right[result["part"]]):
                wrong.append(key(result))
        return wrong


def account(line: Line) -> dict[str, Any]:
    ledger = line.ledger
    received = {key(result): result for result in ledger.received}
    latencies = sorted(result["latency_ms"] for result in received.values()) or [float("nan")]
    verdicts = Counter(result["verdict"] for result in received.values())
    return {
        "parts triggered": line.triggered,
        "verdicts stored": len(line.stored),
        "verdicts received": len(received),
        "received twice": ledger.duplicates,
        "received late (historical)": sum(result["historical"] for result in received.values()),
        "missing": len(ledger.missing),
        "stored, killed before printed": len(line.stored - ledger.given),
        "gaps in sequence": sum(map(len, ledger.gaps.values())),
        "out of order": len(ledger.out_of_order),
        "twice and different": len(ledger.disagreeing),
        "wrongly said": len(line.wrongly_said),
        **{f"verdict {verdict}": count for verdict, count in sorted(verdicts.items())},
        **{f"trouble: {name}": count for name, count in sorted(line.troubles.items())},
        "latency ms, median": latencies[len(latencies) // 2],
        "latency ms, 99.9 %": latencies[min(len(latencies) - 1, int(0.999 * len(latencies)))],
        "balances": len(line.stored) == line.triggered and ledger.balances(line.triggered) and not line.wrongly_said,
    }


if __name__ == "__main__":
    sys.exit(main())
