"""What it costs that the engine lives in a process of its own: run() in this process against run() in the child.

    python benchmarks/engine_child.py [--threads 1]

Two models at batch 1: the tests' tiny one (12 x 16 pixels: all of the time is overhead) and FastFlow ResNet18 at
256 px, untrained. Medians over turns that alternate; and the child's throughput with both slots in use, against the
engine in a loop. Writes benchmarks/results/engine_child.json.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "engine_child.json"
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "edge_agent")]


def main(
    threads: Annotated[int, typer.Option(help="Of the engine, on both sides.")] = 1,
    turns: Annotated[int, typer.Option(help="Turns of each side.")] = 5,
) -> None:
    """Measure, print, write the JSON."""
    from fastflow_speed import SIZE, our_model
    from tiny_bundle import SIZE as TINY
    from tiny_bundle import tiny_model

    rows = {}
    for name, model, size, calls in (("tiny", tiny_model(), TINY, 2000), ("fastflow", our_model(), (SIZE, SIZE), 20)):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row = compare(bundle_of(model, size, Path(folder)), size, threads, turns, calls)
        print(name, json.dumps(row))
    record = {"threads": threads, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "rows": rows}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def bundle_of(model: bytes, size: tuple[int, int], folder: Path):
    """A bundle good enough to be opened; its golden set is not this model's."""
    import tiny_bundle

    from edge_agent.bundle import open_bundle

    tiny_bundle.SIZE = size
    return open_bundle(tiny_bundle.write_bundle(folder / "bundle", model=model))


def compare(bundle, size: tuple[int, int], threads: int, turns: int, calls: int) -> dict[str, float]:
    from edge_agent.engines import open_engine
    from edge_agent.engines.child import Candidate, ChildEngine

    inside = open_engine(bundle, threads=threads)
    child = ChildEngine(bundle, Candidate("onnxruntime", threads=threads), timeout_s=60.0)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    many = np.repeat(image, calls, axis=0)
    sides: dict[str, Callable[[], object]] = {
        "in_process": lambda: inside.run(image),
        "child": lambda: child.run(image),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    through: dict[str, list[float]] = {"in_process": [], "child": []}
    for turn in range(turns + 1):
        for side, run in sides.items():
            time.sleep(0.2)
            found = []
            for _ in range(calls):
                started = time.perf_counter()
                run()
                found.append(time.perf_counter() - started)
            if turn:
                times[side] += found[calls // 10 :]
        started = time.perf_counter()
        for each in many:
            inside.run(each[None])
        through["in_process"].append(calls / (time.perf_counter() - started))
        started = time.perf_counter()
        child.run(many)
        through["child"].append(calls / (time.perf_counter() - started))
    child.close()
    p50 = {side: 1e6 * statistics.median(values) for side, values in times.items()}
    return {
        "in_process_p50_us": round(p50["in_process"], 1),
        "child_p50_us": round(p50["child"], 1),
        "cost_us": round(p50["child"] - p50["in_process"], 1),
        "in_process_per_s": round(statistics.median(through["in_process"]), 1),
        "child_two_slots_per_s": round(statistics.median(through["child"]), 1),
    }


if __name__ == "__main__":
    typer.run(main)
