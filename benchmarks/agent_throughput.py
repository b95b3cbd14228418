"""The agent's throughput on a replayed folder against the bare engine's at batch 1, engine on one thread in both.

    python benchmarks/agent_throughput.py --bundle BUNDLE --images FOLDER [--parts 300]

The bare engine scores images that lie in memory, already decoded and resized, in a loop of its own. The agent does all
that it does on the line: reads and decodes files, scores, decides, makes each verdict durable, publishes it to a real
Mosquitto on loopback; its rate is that of the verdicts as a subscriber receives them. Both take turns. Writes
benchmarks/results/agent_throughput.json.
"""

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import paho.mqtt.client as mqtt
import typer
import yaml

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.engines import open_engine
from edge_agent.preprocess import IMAGE_SUFFIXES, prepare, read_image

RESULTS = Path(__file__).parent / "results" / "agent_throughput.json"


def main(
    bundle: Annotated[Path, typer.Option(help="A bundle.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of images to replay.", show_default=False)],
    parts: Annotated[int, typer.Option(help="Parts per turn.")] = 300,
    turns: Annotated[int, typer.Option(help="Turns of each side.")] = 3,
) -> None:
    """Measure, print, write the JSON."""
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    loops = max(round(parts / len(paths)), 1)
    opened = open_bundle(bundle)
    bare, agent = [], []
    with mosquitto() as port:
        for turn in range(turns):
            bare.append(bare_rate(opened, paths, loops))
            agent.append(agent_rate(bundle, images, loops, len(paths) * loops, port))
            print(f"turn {turn + 1}: bare engine {bare[-1]:.1f}, agent {agent[-1]:.1f} parts/s", flush=True)
    ratio = statistics.median(a / b for a, b in zip(agent, bare, strict=True))
    print(f"agent / bare engine: {ratio:.3f} (median of {turns} turns of {len(paths) * loops} parts)")
    record = {
        "system": opened.manifest.system, "parts": len(paths) * loops, "engine_threads": 1, "ratio": round(ratio, 4),
        "bare_per_s": [round(rate, 2) for rate in bare], "agent_per_s": [round(rate, 2) for rate in agent],
    }  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def bare_rate(bundle: Bundle, paths: list[Path], loops: int) -> float:
    """Parts per second of the engine alone."""
    ready = [prepare(read_image(path), bundle.manifest.preprocessing)[None] for path in paths]
    engine = open_engine(bundle, threads=1)
    engine.run(ready[0])
    started = time.perf_counter()
    for _ in range(loops):
        for image in ready:
            engine.run(image)
    elapsed = time.perf_counter() - started
    engine.close()
    return len(paths) * loops / elapsed


def agent_rate(bundle: Path, images: Path, loops: int, expected: int, port: int) -> float:
    """Verdicts per second as received, the first tenth not counted."""
    arrived: list[float] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda *_: arrived.append(time.perf_counter())
    client.connect("127.0.0.1", port)
    client.subscribe("faultline/v1/+/+/+/+/result", qos=1)
    client.loop_start()
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "device": "bench", "bundle": str(bundle.resolve()),
            "topic": {"prefix": "faultline", "site": "s", "line": "l", "station": "t"},
            "cameras": {"top": {"kind": "folder", "path": str(images.resolve()), "loop": loops}},
            "engine": {"kind": "onnxruntime", "threads": 1},
            "mqtt": {"host": "127.0.0.1", "port": port},
            "anomaly_maps": {"publish": True},
        }  # fmt: skip
        path = Path(folder) / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        subprocess.run(
            [sys.executable, "-m", "edge_agent", "run", "--config", str(path)], check=True, capture_output=True
        )
    client.loop_stop()
    if len(arrived) != expected:
        raise SystemExit(f"{len(arrived)} verdicts arrived of {expected}.")
    skipped = expected // 10
    return (expected - 1 - skipped) / float(np.subtract(arrived[-1], arrived[skipped]))


@contextmanager
def mosquitto():
    """A broker of its own on a free port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise SystemExit("Mosquitto is not installed. On Debian: apt-get install mosquitto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosquitto.conf"
        path.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        broker = subprocess.Popen([program, "-c", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port
        finally:
            broker.terminate()
            broker.wait()


if __name__ == "__main__":
    typer.run(main)
