"""Durable verdicts per second against what the disk's own fsync allows, and how long a verdict takes to be durable.

    python benchmarks/outbox_rate.py [--folder .] [--verdicts 1000] [--rate 50] [--turns 3]

On the disk of FOLDER, in turns: a plain file, to which a verdict's bytes are appended and synced, one by one; the
outbox alone, one commit for each verdict; and the whole agent with a real Mosquitto on frames from memory, as fast as
it goes. All that waits becomes durable in one sync, so the agent may be faster than the file. Then a steady RATE of
frames a second: from the frame to the committed verdict, p50, p99 and the longest. Writes
benchmarks/results/outbox_rate.json.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from agent_throughput import mosquitto
from frame_cost import make_bundle

import edge_agent.cameras.open as opening
from edge_agent.agent import run
from edge_agent.cameras.live import Shot
from edge_agent.config import read_config
from edge_agent.messages import Result, encode
from edge_agent.outbox import Message, Outbox

RESULTS = Path(__file__).parent / "results" / "outbox_rate.json"
WARM = 50  # verdicts of each run that don't count
GOAL = 0.5  # of the disk's own rate
MODEL_SIZE = 128  # so small that the disk is what limits


class FastCamera:
    """A software-triggered camera that has each small frame at once."""

    def __init__(self, config: object):
        shape = (8, MODEL_SIZE, MODEL_SIZE, 3)
        self._frames, self._next = np.random.default_rng(0).integers(60, 200, shape, np.uint8), 0

    def trigger(self) -> None:
        self._next += 1

    def read(self, timeout_s: float) -> Shot:
        return Shot(image=self._frames[self._next % len(self._frames)])

    def close(self) -> None:
        return None


def main(
    folder: Annotated[Path, typer.Option(help="On the disk to be measured.")] = Path(),
    verdicts: Annotated[int, typer.Option(help="Per turn.")] = 1000,
    rate: Annotated[float, typer.Option(help="Frames a second of the steady load.")] = 50.0,
    turns: Annotated[int, typer.Option(help="Turns of each side.")] = 3,
    agent: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print, write the JSON."""
    if agent is not None:
        print(json.dumps(agent_times(agent, verdicts)))
        return
    found: dict[str, list[float]] = {"fsync": [], "outbox": [], "agent": []}
    latencies: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary, mosquitto() as port:
        place = Path(temporary)
        bundle = make_bundle(place / "bundle", MODEL_SIZE)
        for turn in range(turns):
            times = agent_in_process(place, bundle, port, verdicts, interval_s=0.0)
            row = bytes(int(times["payload_bytes"]))
            found["fsync"].append(fsync_rate(place / "plain", row, verdicts))
            found["outbox"].append(outbox_rate(place / "alone.db", row, verdicts))
            found["agent"].append(times["per_s"])
            print(
                f"turn {turn + 1}, per second: " + ", ".join(f"{name} {rates[-1]:.0f}" for name, rates in found.items())
            )
        latencies = agent_in_process(place, bundle, port, verdicts, interval_s=1.0 / rate)["latencies_ms"]
    ratio = {
        name: round(statistics.median(a / b for a, b in zip(found[name], found["fsync"], strict=True)), 3)
        for name in ("outbox", "agent")
    }
    quantiles = {"p50": np.quantile(latencies, 0.5), "p99": np.quantile(latencies, 0.99), "max": max(latencies)}
    record: dict[str, Any] = {
        "payload_bytes": len(row), "verdicts": verdicts, "turns": turns, "ratio_to_fsync": ratio, "goal": GOAL,
        **{f"{name}_per_s": [round(each, 1) for each in rates] for name, rates in found.items()},
        "steady_per_s": rate, "frame_to_committed_ms": {name: round(float(at), 2) for name, at in quantiles.items()},
    }  # fmt: skip
    print(
        f"outbox alone / fsync: {ratio['outbox']:.2f}; agent / fsync: {ratio['agent']:.2f} (at least {GOAL} is right)"
    )
    shown = ", ".join(f"{name} {at:.1f} ms" for name, at in quantiles.items())
    print(f"frame to committed verdict at {rate:g} a second: {shown}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    if ratio["agent"] < GOAL:
        raise SystemExit(f"Fewer than {GOAL} of what the disk allows.")


def fsync_rate(path: Path, row: bytes, n: int) -> float:
    """Appended and synced rows per second."""
    with path.open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(n):
            file.write(row)
            os.fsync(file.fileno())
        return n / (time.perf_counter() - began)


def outbox_rate(path: Path, row: bytes, n: int) -> float:
    """Commits of one verdict per second; each forgets the one before, as after its acknowledgement."""
    outbox = Outbox(path, max_rows=200_000, max_bytes=512 * 1024**2)
    began = time.perf_counter()
    for _ in range(n):
        outbox.commit([Message("result", "faultline/v1/s/l/t/top/result", row)], forget=[outbox.last])
    elapsed = time.perf_counter() - began
    outbox.close()
    return n / elapsed


def agent_in_process(place: Path, bundle: Path, port: int, verdicts: int, *, interval_s: float) -> dict[str, Any]:
    config: dict[str, Any] = {
        "device": "bench", "bundle": str(bundle.resolve()), "engine": {"kind": "replay"},
        "topic": {"site": "s", "line": "l", "station": "t"},
        "cameras": {"top": {"kind": "gige", "trigger": "software", "interval_s": interval_s}},
        "mqtt": {"host": "127.0.0.1", "port": port, "drain_timeout_s": 0.0},
    }  # fmt: skip
    path = place / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, __file__, "--verdicts", str(verdicts), "--agent", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    times: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return times


def agent_times(config: Path, verdicts: int) -> dict[str, Any]:
    """Of the agent in this process: its rate, and what each verdict took from the frame to the disk."""
    opening.load_aravis = lambda: None
    opening.AravisSource = FastCamera
    times: dict[str, Any] = {}
    latencies: list[float] = []
    count, began = 0, 0.0

    def given(result: Result) -> None:
        nonlocal count, began
        count += 1
        if count == WARM:
            began = time.perf_counter()
        elif WARM < count <= WARM + verdicts:
            latencies.append((time.monotonic_ns() - result.ts_mono_ns) / 1e6)
        if count == WARM + verdicts:
            times.update(per_s=verdicts / (time.perf_counter() - began), payload_bytes=len(encode(result)))
            os.kill(os.getpid(), signal.SIGTERM)

    summary = run(read_config(config), given)
    if summary.tally.verdicts["unknown"]:
        raise SystemExit(f"{summary.tally.verdicts['unknown']} parts were unknown.")
    return {**times, "latencies_ms": latencies}


if __name__ == "__main__":
    typer.run(main)
