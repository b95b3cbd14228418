"""FastFlow at batch 1 on a CPU: our bundle's graph in our OpenVINO engine against anomalib's own OpenVINO path.

    python benchmarks/anomalib_speed.py --anomalib-python PYTHON       an environment with anomalib[openvino] 2.7.0

Same network on both sides: ResNet18 at 256 px, 8 steps of 3x3 kernels, LayerNorm with its affine, random weights.
anomalib runs in a process of its own environment: its OpenVINOInferencer as delivered (OpenVINO picks the precision)
and in each precision, and raw OpenVINO on its model with our options, the image already normalised to its taste. Ours:
the OpenVINO engine in both precisions and ONNX Runtime, from an image in memory as uint8 to scores and map. All take
turns within one run, a pause before each: idle threads of the one before would still spin. Beside the time that passes
stands the processors' time: where other work shares the cores, it is the steadier of the two.
Writes benchmarks/results/anomalib_speed.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "anomalib_speed.json"
PAUSE_S = 1.0
COMPARED = {  # ours -> the peers of the same precision
    "ours float32": ("inferencer float32", "raw float32"),
    "ours bfloat16": ("inferencer as delivered", "inferencer bfloat16", "raw bfloat16"),
}

Turn = Callable[[int], list[tuple[float, float]]]  # calls -> seconds and processor seconds of each


def main(
    anomalib_python: Annotated[Path, typer.Option(help="Python of an environment with anomalib.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 7,
    calls: Annotated[int, typer.Option(help="Calls per turn; the first two warm up.")] = 20,
    beside: Annotated[str, typer.Option(help="What else ran meanwhile: goes into the JSON.")] = "",
) -> None:
    """Measure, print a table, write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        sides = our_sides(Path(folder))
        process, about = start_anomalib(anomalib_python, Path(folder))
        sides |= {row: asked(process, row) for row in about["rows"]}
        times: dict[str, list[list[tuple[float, float]]]] = {side: [] for side in sides}
        loads = []
        for turn in range(rounds + 1):
            loads.append(round(os.getloadavg()[0], 2))
            for side, run in sides.items():
                time.sleep(PAUSE_S)
                found = run(calls)[2:]
                if turn:
                    times[side].append(found)
        process.stdin.close()
        process.wait(30)
    seconds, processor = ({side: median(turns, at) for side, turns in times.items()} for at in (0, 1))
    ratios = {
        ours: {peer: ratio_in_turns(times[peer], times[ours]) for peer in peers} for ours, peers in COMPARED.items()
    }
    for side, value in seconds.items():
        print(f"{side:26} {1 / value:6.1f} images/s   {1000 * value:7.2f} ms   {1000 * processor[side]:7.2f} ms of CPU")
    for ours, peers in ratios.items():
        for peer, ratio in peers.items():
            print(f"{ours} against {peer}, times as fast: {ratio}")
    record = {
        "about": {**about, "our_openvino": openvino_version(), "cores": os.cpu_count(), "load_at_each_turn": loads},
        "beside": beside,
        "images_per_s": {side: round(1 / value, 2) for side, value in seconds.items()},
        "cpu_ms_per_image": {side: round(1000 * value, 2) for side, value in processor.items()},
        "times_as_fast": ratios,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def our_sides(folder: Path) -> dict[str, Turn]:
    """The bundle graph of an untrained network in our engines."""
    sys.path.insert(0, str(HERE.parent))
    from fastflow_speed import SIZE, our_model

    from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
    from edge_agent.engines.openvino import OpenVinoEngine

    model = our_model()
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    engines = {
        "ours float32": OpenVinoEngine(model, precision="float32"),
        "ours bfloat16": OpenVinoEngine(model, precision="bfloat16"),
        "ours onnxruntime": OnnxRuntimeEngine(model),
    }
    return {side: timed(lambda engine=engine: engine.run(image)) for side, engine in engines.items()}


def timed(run: Callable[[], object]) -> Turn:
    def turn(calls: int) -> list[tuple[float, float]]:
        times = []
        for _ in range(calls):
            started, used = time.perf_counter(), time.process_time()
            run()
            times.append((time.perf_counter() - started, time.process_time() - used))
        return times

    return turn


def start_anomalib(python: Path, folder: Path) -> tuple[subprocess.Popen, dict]:
    process = subprocess.Popen(
        [python, HERE / "anomalib_side.py", folder / "anomalib"], cwd=folder,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"anomalib did not come up. Run it by hand: {python} benchmarks/anomalib_side.py FOLDER")
    return process, json.loads(line)


def asked(process: subprocess.Popen, row: str) -> Turn:
    def turn(calls: int) -> list[tuple[float, float]]:
        process.stdin.write(f"{row} {calls}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    return turn


def median(turns: list[list[tuple[float, float]]], at: int) -> float:
    return statistics.median(call[at] for turn in turns for call in turn)


def ratio_in_turns(theirs: list[list[tuple[float, float]]], ours: list[list[tuple[float, float]]]) -> dict[str, float]:
    """Their time over ours, turn by turn: the machine's mood is the same within one."""
    clock, processor = ([median([a], at) / median([b], at) for a, b in zip(theirs, ours, strict=True)] for at in (0, 1))
    return {
        "median": round(statistics.median(clock), 3),
        "least": round(min(clock), 3),
        "cpu": round(statistics.median(processor), 3),
    }


def openvino_version() -> str:
    import openvino

    return openvino.__version__


if __name__ == "__main__":
    typer.run(main)
