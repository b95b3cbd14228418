"""Puts the measured figures into the READMEs, between their results:begin and results:end marks.

    python benchmarks/write_results.py

Reads the JSON below benchmarks/results only; what was not run is named. What the figures mean is written by hand beside
the marks.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import accuracy
import fastflow_study
import precision

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
MARKS = re.compile(r"<!-- results:begin -->.*<!-- results:end -->", re.DOTALL)


def main() -> None:
    """Write all READMEs that have marks."""
    everything = [
        *accuracy_table(accuracy.ROWS),
        "",
        *speed_tables(),
        *anomalib_line(),
        "",
        *precision_table(),
        "",
        *agent_lines(),
    ]
    of_system = {
        system: accuracy_table(row for row in accuracy.ROWS if row.system == system)
        for system in ("aesc", "fastflow", "anogan", "f_anogan")
    }
    of_system["fastflow"] += ["", *curves(), "", *study()]
    pages = {
        ROOT / "README.md": everything,
        **{ROOT / "train/detectors" / system / "README.md": lines for system, lines in of_system.items()},
    }
    for path, lines in pages.items():
        body = "\n".join(["<!-- results:begin -->", *lines, "<!-- results:end -->"])
        path.write_text(MARKS.sub(lambda _, body=body: body, path.read_text()))


def accuracy_table(rows: Iterable[accuracy.Row]) -> list[str]:
    rows = list(rows)
    table = accuracy.as_table(rows)
    left = [line for line in table if "| not run |" in line]
    lines = [line for line in table if "| not run |" not in line]
    if left:
        names = "; ".join(f"{cells[2].strip()} on {cells[1].strip()}" for cells in (line.split("|") for line in left))
        lines += ["", f"Not run yet: {names}."]
    return lines


def speed_tables() -> list[str]:
    """Ratios of one run each; above 1 ours is faster."""
    lines = []
    if aesc := _read("aesc_speed.json"):
        lines += [
            f"Speed against PyTorch {aesc['torch']}, {aesc['threads']} threads, both in one run; above 1 ours is "
            "faster. `python benchmarks/aesc_speed.py`, `python benchmarks/fastflow_speed.py`",
            "",
            "| work | against PyTorch eager | against PyTorch's export in ONNX Runtime |",
            "|---|---|---|",
            *(f"| AESc, {name} | {row['ratio']:.2f} | |" for name, row in aesc["rows"].items()),
        ]
    for name, row in _read("fastflow_speed.json").get("rows", {}).items():
        ratios = row["times ours"]
        eager, exported = ratios.get("torch eager", ratios.get("torch")), ratios.get("torch exported")
        lines.append(f"| FastFlow ResNet18, {name} | {eager:.2f} | {f'{exported:.2f}' if exported else ''} |")
    return lines


def anomalib_line() -> list[str]:
    if not (speed := _read("anomalib_speed.json")):
        return []
    pairs = [
        f"{ratios['median']:.2f} of {peer}"
        for peers in speed["times_as_fast"].values()
        for peer, ratios in peers.items()
    ]
    return [
        "",
        f"FastFlow ResNet18 at batch 1 in our OpenVINO engine against anomalib {speed['about']['anomalib']} and its "
        f"OpenVINO path at the same precision, in one run: {', '.join(pairs)} "
        "(`python benchmarks/anomalib_speed.py --anomalib-python PYTHON`).",
    ]


def precision_table() -> list[str]:
    """What float16 and int8 cost on a test set."""
    if not (paths := sorted(precision.RESULTS.glob("*.json"))):
        return []
    return [
        "What a bundle's precision costs, in ONNX Runtime on a CPU, against the same run's float32 bundle "
        "(`python benchmarks/precision.py RUN --data FOLDER`):",
        "",
        *precision.as_table(paths),
    ]


def agent_lines() -> list[str]:
    lines = []
    if agent := _read("agent_throughput.json"):
        lines.append(
            f"The agent delivers {agent['ratio']:.3f} of the bare engine's parts per second on a replayed folder, "
            "engine on one thread in both (`python benchmarks/agent_throughput.py --bundle BUNDLE --images FOLDER`)."
        )
    if cost := _read("frame_cost.json"):
        ratio = cost["ratio"]
        lines.append(
            f"A 5-megapixel frame costs the whole agent {ratio['dry run']['cpu']:.2f} times the processor time of "
            f"resizing it, {ratio['outbox and MQTT']['cpu']:.2f} times with outbox and MQTT, engine and decoding not "
            "counted (`python benchmarks/frame_cost.py`)."
        )
    if rate := _read("outbox_rate.json"):
        took = rate["frame_to_committed_ms"]
        lines.append(
            f"Durable verdicts per second: {rate['ratio_to_fsync']['agent']:.2f} times what one fsync for each would "
            f"allow on that disk. From frame to committed verdict at {rate['steady_per_s']:g} a second: "
            f"{took['p50']:.1f} ms, p99 {took['p99']:.1f} ms (`python benchmarks/outbox_rate.py`)."
        )
    return lines


def curves() -> list[str]:
    """Best and last step of every run whose checkpoints were all judged."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "curves").glob("*-fastflow-*.json"))]
    if not records:
        return []
    lines = [
        "Peak and fall: test figures of every epoch of the same runs (`python benchmarks/training_curve.py`); "
        "nothing was chosen from them.",
        "",
        "| set | image AUROC untrained | best | last | pixel AUROC untrained | best | last |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        cells = []
        for key in ("image_auroc", "pixel_auroc"):
            values = [point[key] for point in record["curve"]]
            cells += [f"{values[0]:.3f}", f"{max(values):.3f}", f"{values[-1]:.3f}"]
        changed = [each for each in record.get("settings", []) if each.startswith(("normalisation", "image_size"))]
        settings = f" ({', '.join(sorted(changed))}, ...)" if changed else ""
        lines.append(f"| {record['set']}{settings} | {' | '.join(cells)} |")
    return lines


def study() -> list[str]:
    if not fastflow_study.RESULTS.is_dir():
        return []
    return [
        "One change at a time, without test images: held-out good images against copies with a small stain or a "
        'scratch, 128 px (`python benchmarks/fastflow_study.py`). "fall": how far the last step lies below the best.',
        "",
        *fastflow_study.as_table(),
    ]


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / name
    return dict(json.loads(path.read_text())) if path.exists() else {}


if __name__ == "__main__":
    main()
