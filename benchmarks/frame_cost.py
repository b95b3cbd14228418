"""What the agent costs per 5-megapixel frame, beside resizing it to the model's size, which no agent can do without.

    python benchmarks/frame_cost.py [--frames 200] [--turns 3] [--size 256]

Frames of 2448 x 2048 pixels come from memory, as fast as the line takes them, into the whole agent: a camera of its
own kind with all its checks, resizing, an engine (`replay`, in its process, whose time does not count), decision,
drift alarm, JSON. Then with and without the outbox on disk and a real Mosquitto, and with the spool, which keeps 3
frames in 100. Against it `prepare` alone on the same frames, with as many OpenCV threads. The sides take turns.
Processor time is that of the agent's process, all threads; wall time is from verdict to verdict. Writes
benchmarks/results/frame_cost.json.
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

import cv2
import numpy as np
import typer
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "edge_agent"))

import tiny_bundle
from agent_throughput import mosquitto

import edge_agent.cameras.open as opening
from edge_agent.agent import run
from edge_agent.cameras.live import Shot
from edge_agent.config import read_config
from edge_agent.preprocess import Preprocessing, prepare

RESULTS = Path(__file__).parent / "results" / "frame_cost.json"
WIDTH, HEIGHT, DISTINCT = 2448, 2048, 8
WARM = 30  # frames of each turn that don't count
SIDES = ("dry run", "outbox and MQTT", "outbox, MQTT and spool")
LIMIT = 1.3
JUDGED = "outbox and MQTT"


class MemoryCamera:
    """A software-triggered camera that has each frame at once."""

    def __init__(self, config: object):
        self._frames, self._next = make_frames(), 0

    def trigger(self) -> None:
        self._next += 1

    def read(self, timeout_s: float) -> Shot:
        return Shot(image=self._frames[self._next % DISTINCT])

    def close(self) -> None:
        return None


def main(
    frames: Annotated[int, typer.Option(help="Frames per turn that count.")] = 200,
    turns: Annotated[int, typer.Option(help="Turns of each side.")] = 3,
    size: Annotated[int, typer.Option(help="The model's width and height, pixels.")] = 256,
    agent: Annotated[Path | None, typer.Option(hidden=True)] = None,
    dry: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure, print, write the JSON."""
    if agent is not None:
        print(json.dumps(agent_cost(agent, frames, dry=dry)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("resize", *SIDES)}
    with tempfile.TemporaryDirectory() as folder, mosquitto() as port:
        bundle = make_bundle(Path(folder) / "bundle", size)
        for turn in range(turns):
            found["resize"].append(resize_cost(frames, size))
            for side in SIDES:
                found[side].append(agent_in_process(Path(folder), bundle, port, side, frames))
            said = ", ".join(f"{name} {cost[-1]['cpu_ms']:.2f}" for name, cost in found.items())
            print(f"turn {turn + 1}, ms of processor per frame: {said}", flush=True)
    record: dict[str, Any] = {
        "frame": [WIDTH, HEIGHT], "model_size": size, "frames": frames, "turns": turns, "cores": os.cpu_count(),
        "opencv_threads": cv2.getNumThreads(), "limit": LIMIT,
        **{name: {key: median(costs, key) for key in ("cpu_ms", "wall_ms")} for name, costs in found.items()},
        "ratio": {
            side: {
                key.replace("_ms", ""): round(
                    statistics.median(
                        a[key] / b[key] for a, b in zip(found[side], found["resize"], strict=True)
                    ), 3,
                )
                for key in ("cpu_ms", "wall_ms")
            }
            for side in SIDES
        },
    }  # fmt: skip
    for side in SIDES:
        ratio = record["ratio"][side]
        print(f"{side}: {ratio['cpu']:.2f} of the resize's processor time, {ratio['wall']:.2f} of its wall time")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    if max(record["ratio"][JUDGED].values()) > LIMIT:
        raise SystemExit(f"More than {LIMIT} times the resize.")


def median(costs: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(cost[key] for cost in costs), 3)


def make_frames() -> list[np.ndarray]:
    """uint8 [2048, 2448, 3] RGB with the grain of a camera, each its own."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(DISTINCT):
        coarse = random.integers(40, 200, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
        noise = random.integers(0, 8, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        made.append(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + noise)
    return made


def make_bundle(folder: Path, size: int) -> Path:
    """Recorded scores of 50 parts, one of them a reject."""
    tiny_bundle.SIZE = (size, size)
    images = np.random.default_rng(0).integers(0, 40, (50, size, size, 3), dtype=np.uint8)
    images[:, 3, 5] = 60
    images[17, 3:9, 5:9] = 140
    tiny_bundle.parts = lambda: images
    preprocessing = {"width": size, "height": size, "crop": None, "resize": "area"}
    return tiny_bundle.write_bundle(folder, preprocessing=preprocessing)


def resize_cost(frames: int, size: int) -> dict[str, float]:
    """Of `prepare` alone, in a loop."""
    shown, preprocessing = make_frames(), Preprocessing(width=size, height=size)
    for number in range(WARM):
        prepare(shown[number % DISTINCT], preprocessing)
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(frames):
        prepare(shown[number % DISTINCT], preprocessing)
    return per_frame(cpu, wall, frames)


def agent_in_process(folder: Path, bundle: Path, port: int, side: str, frames: int) -> dict[str, float]:
    config: dict[str, Any] = {
        "device": "bench", "bundle": str(bundle), "engine": {"kind": "replay"},
        "topic": {"site": "s", "line": "l", "station": "t"},
        "cameras": {"top": {"kind": "gige", "trigger": "software"}},
        "mqtt": {"host": "127.0.0.1", "port": port, "drain_timeout_s": 0.0},
    }  # fmt: skip
    if side == SIDES[2]:
        config["spool"] = {"folder": "spool", "min_free_bytes": 0}
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, __file__, "--frames", str(frames), "--agent", str(path)]
    if side == SIDES[0]:
        command.append("--dry")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def agent_cost(config: Path, frames: int, *, dry: bool) -> dict[str, float]:
    """Of the agent in this process."""
    opening.load_aravis = lambda: None
    opening.AravisSource = MemoryCamera
    began: list[float] = []
    cost: dict[str, float] = {}

    def given(result: object) -> None:
        nonlocal count
        count += 1
        if count == WARM:
            began[:] = [time.process_time(), time.perf_counter()]
        elif count == WARM + frames:
            cost.update(per_frame(*began, frames))
            os.kill(os.getpid(), signal.SIGTERM)

    count = 0
    summary = run(read_config(config), given, dry_run=dry)
    if summary.tally.verdicts["unknown"]:
        raise SystemExit(f"{summary.tally.verdicts['unknown']} parts were unknown.")
    return cost


def per_frame(cpu: float, wall: float, frames: int) -> dict[str, float]:
    return {
        "cpu_ms": 1000.0 * (time.process_time() - cpu) / frames,
        "wall_ms": 1000.0 * (time.perf_counter() - wall) / frames,
    }


if __name__ == "__main__":
    typer.run(main)
