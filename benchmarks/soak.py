"""The agent for a long time: is its memory flat, and the disk that it uses?

    python benchmarks/soak.py [--minutes 30] [--rate 10] [--outage-every-s 120] [--settle-minutes M] [--out FILE]

Runs the agent as a process on a replayed line, with all that it does by the side (pictures of rejects, frames for
retraining, drift), against a real Mosquitto that goes away for a while now and then. Samples the resident memory of the
agent and of its engine's process, threads, open files, and the bytes of outbox and log. Slopes are least squares over
the time after the first sixth, or after `--settle-minutes`. Exits 1 where memory grows by more than 4 MiB/h, or a
verdict is missing.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "edge_agent"))

from children import children
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import Mosquitto, Subscriber, key

RESULTS = Path(__file__).parent / "results" / "soak.json"
FLAT_MIB_PER_H = 4.0
OUTAGE_S = 20.0
MIB = 1024.0**2


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Parts per second.")] = 10.0,
    outage_every_s: Annotated[float, typer.Option(help="From one outage of the broker to the next.")] = 120.0,
    every_s: Annotated[float, typer.Option(help="From sample to sample.")] = 5.0,
    settle_minutes: Annotated[float | None, typer.Option(help="Slopes begin here. [default: a sixth]")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS,
) -> None:
    """Run, print, write the JSON."""
    settle_s = 10.0 * minutes if settle_minutes is None else 60.0 * settle_minutes
    with tempfile.TemporaryDirectory() as folder:
        record = soak(Path(folder), minutes * 60.0, rate, outage_every_s, every_s, settle_s)
    for name, value in record.items():
        if name != "samples":
            print(f"{name:34} {value}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    worst = max(record["agent_slope_mib_per_h"], record["engine_slope_mib_per_h"])
    raise typer.Exit(0 if worst <= FLAT_MIB_PER_H and record["verdicts_missing"] == 0 else 1)


def soak(
    folder: Path, seconds: float, rate: float, outage_every_s: float, every_s: float, settle_s: float
) -> dict[str, Any]:
    """One run; what was seen."""
    broker = Mosquitto(folder / "broker").start()
    subscriber = Subscriber(broker.port)
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 1.0 / rate}}
    config = make_line(
        folder, port=broker.port, parts=50, cameras=camera, health_interval_s=1.0,
        anomaly_maps={"publish": True, "folder": "rejects", "keep": 100},
        spool={"folder": "spool", "pass_share": 0.1, "good": {"max_files": 200}, "bad": {"max_files": 200}},
    )  # fmt: skip
    samples: list[dict[str, float]] = []
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        (engine,) = children(agent.pid)
        started = time.monotonic()
        outage, down = outage_every_s, False
        while (now := time.monotonic() - started) < seconds:
            samples.append(sample(folder, agent, engine, now))
            if now >= outage:
                broker.start() if down else broker.stop()
                outage += OUTAGE_S if not down else outage_every_s - OUTAGE_S
                down = not down
            time.sleep(max(0.0, every_s - (time.monotonic() - started - now)))
        if down:
            broker.start()
        given = set(map(key, agent.given))
        subscriber.settle(given, quiet_s=60.0)
        code, log_lines = agent.end(), len(agent.logged)
    ledger = Ledger(given, list(subscriber.results))
    subscriber.close()
    broker.stop()
    kept = [each for each in samples if each["s"] >= settle_s]
    return {
        "minutes": round(seconds / 60.0, 2),
        "settled_after_minutes": round(settle_s / 60.0, 2),
        "parts_per_s": rate,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "exit_code": code,
        "verdicts_stored": len(given),
        "verdicts_missing": len(ledger.missing),
        "sequence_gaps": sum(map(len, ledger.gaps.values())),
        "out_of_order": len(ledger.out_of_order),
        "log_lines": log_lines,
        **{f"{name}_slope_mib_per_h": round(slope(kept, f"{name}_mib"), 3) for name in ("agent", "engine")},
        **{f"{name}_mib_first_last": ends(kept, f"{name}_mib") for name in ("agent", "engine")},
        **{f"{name}_mib_most": max(each[f"{name}_mib"] for each in samples) for name in ("agent", "engine")},
        "outbox_disk_mib_first_last": ends(kept, "outbox_mib"),
        "outbox_disk_mib_most": max(each["outbox_mib"] for each in samples),
        "folder_mib_first_last": ends(kept, "folder_mib"),
        "threads_first_last": ends(kept, "threads"),
        "open_files_first_last": ends(kept, "open_files"),
        "samples": samples[:: max(1, round(60.0 / every_s))],
    }


def sample(folder: Path, agent: RunningAgent, engine: int, now: float) -> dict[str, float]:
    files = dict(sizes(folder))
    outbox = sum(size for path, size in files.items() if path.name.startswith("outbox.db"))
    own = sum(size for path, size in files.items() if "broker" not in path.parts)
    return {
        "s": round(now, 1),
        "agent_mib": resident_mib(agent.pid),
        "engine_mib": resident_mib(engine),
        "outbox_mib": round(outbox / MIB, 3),
        "folder_mib": round(own / MIB, 3),
        "threads": len(list(Path(f"/proc/{agent.pid}/task").iterdir())),
        "open_files": len(list(Path(f"/proc/{agent.pid}/fd").iterdir())),
        "given": len(agent.printed),
    }


def sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """In bytes, of the files there; the agent makes and deletes some meanwhile."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.stat().st_size


def resident_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024.0, 3)


def slope(samples: list[dict[str, float]], name: str) -> float:
    """Per hour."""
    hours = np.array([each["s"] for each in samples]) / 3600.0
    return float(np.polyfit(hours, np.array([each[name] for each in samples]), 1)[0])


def ends(samples: list[dict[str, float]], name: str) -> list[float]:
    """The first value, and the last."""
    return [samples[0][name], samples[-1][name]]


if __name__ == "__main__":
    typer.run(main)
