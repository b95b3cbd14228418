"""What fp16 and int8 cost on a test set: one JSON per run and precision, kept in benchmarks/results/precision.

    python benchmarks/precision.py RUN --data ../shared/data/mvtec_ad/bottle     packs, judges, writes; then the table
    python benchmarks/precision.py --table                                       prints the table alone

Packs a run in fp32, fp16 and int8 and judges the three bundles with the code of `export evaluate`, in ONNX Runtime on
the CPU; of fp16 also a float32 graph with all the rounding of float16, which that CPU leaves out. Nothing is chosen by
these figures: ranges and what is given back come from training and held-out images.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer

from edge_agent.bundle import MODEL, Bundle
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from export.evaluate import judge_bundle
from export.pack import PRECISIONS, pack
from export.precision.calibration import calibration_images
from export.precision.half import rounded
from train.config import config_digest
from train.data.folder import Dataset, open_dataset
from train.durable import write_text
from train.evaluate import Evaluation
from train.progress import Work
from train.run import open_run

RESULTS = Path(__file__).parent / "results" / "precision"
FIGURES = ("image_auroc", "pixel_auroc", "aupro")
KEPT = (*FIGURES, "n_normal", "n_defective", "engine", "data_digest", "versions")


def main(
    run: Annotated[Path | None, typer.Argument(help="The run folder of `train fit`.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option("--data", help="What it was trained on, with test images.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the table alone.")] = False,
) -> None:
    """Measure a run in every precision, then print the table of all runs."""
    if not table:
        if run is None or data is None:
            raise typer.BadParameter("Give a run folder and --data FOLDER, or --table.")
        measure(run, data)
    print("\n".join(as_table(sorted(RESULTS.glob("*.json")))))


def measure(folder: Path, data: Path) -> None:
    """Writes a JSON per precision."""
    run, dataset = open_run(folder), open_dataset(data)
    reference: Evaluation | None = None
    with tempfile.TemporaryDirectory() as bundles:
        for precision in PRECISIONS:
            calibration = calibration_images(run, dataset) if precision == "int8" else None
            with Work(f"{precision}: scoring the golden set", 1) as work:
                out = Path(bundles) / precision
                packed = pack(run, out, precision=precision, calibration=calibration, on_progress=work.reached)
            with Work(f"{precision}: judging", len(dataset.test)) as work:
                judged = judge_bundle(packed.bundle, dataset, on_progress=work.reached)
            reference = reference or judged
            again = {"rounded": _rounded(packed.bundle, dataset, reference)} if precision == "fp16" else {}
            record = {
                "product": run.product,
                "system": run.system,
                "config_digest": config_digest(run.config),
                "precision": precision,
                **{key: judged.metrics[key] for key in KEPT},
                **_against(judged, reference),
                **again,
                **_graph(packed.bundle),
                "limits": packed.bundle.manifest.limits.model_dump(),
                "precision_loss": packed.bundle.manifest.model_dump()["precision_loss"],
            }
            RESULTS.mkdir(parents=True, exist_ok=True)
            name = f"{run.product}-{run.system}-{record['config_digest']}-{precision}.json"
            write_text(RESULTS / name, json.dumps(record, indent=1) + "\n")


def _rounded(bundle: Bundle, dataset: Dataset, reference: Evaluation) -> dict[str, Any]:
    """Figures of the same network with every float16 result rounded."""
    engine = OnnxRuntimeEngine(rounded(onnx.load_from_string(bundle.read(MODEL))).SerializeToString())
    with Work("fp16, rounded: judging", len(dataset.test)) as work:
        judged = judge_bundle(bundle, dataset, engine=engine, on_progress=work.reached)
    return {**{key: judged.metrics[key] for key in FIGURES}, **_against(judged, reference)}


def _against(judged: Evaluation, reference: Evaluation) -> dict[str, Any]:
    """Verdicts and maps of the test images against the fp32 bundle's."""
    pairs = list(zip(judged.records, reference.records, strict=True))
    maps = reference.anomaly_maps
    return {
        "verdict_flips": sum(ours.verdict != theirs.verdict for ours, theirs in pairs),
        "map_error": float(np.abs(judged.anomaly_maps - maps).max() / (maps.max() - maps.min())),
        "score_error": max(
            abs(ours.score - theirs.score) / max(reference.thresholds.image, theirs.score) for ours, theirs in pairs
        ),
    }


def _graph(bundle: Bundle) -> dict[str, Any]:
    data = bundle.read(MODEL)
    operations = Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
    counted = ("Cast", "Transpose", "QuantizeLinear", "DequantizeLinear")
    return {"model_bytes": len(data), "nodes": operations.total(), **{name: operations[name] for name in counted}}


def as_table(paths: Iterable[Path]) -> list[str]:
    """Markdown, a row per run and precision."""
    lines = [
        "| set | system | precision | image AUROC | pixel AUROC | AUPRO | verdict flips | map error | given back "
        "| Casts | Transposes | model, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    records = [json.loads(path.read_text()) for path in paths]
    records.sort(key=lambda record: (record["product"], record["system"], PRECISIONS.index(record["precision"])))
    for record in records:
        loss = record["precision_loss"]
        graph = [
            f"{len(loss['given_back'])} of {loss['layers']}" if loss else "",
            *(str(record[key]) for key in ("Cast", "Transpose")),
            f"{record['model_bytes'] / 1e6:.1f}",
        ]
        lines.append(_row(record, record, record["precision"], graph))
        if "rounded" in record:
            lines.append(_row(record, record["rounded"], "fp16, rounded", ["", "", "", ""]))
    return lines


def _row(record: dict[str, Any], figures: dict[str, Any], precision: str, graph: list[str]) -> str:
    cells = [
        record["product"],
        record["system"],
        precision,
        *(f"{figures[key]:.4f}" for key in FIGURES),
        f"{figures['verdict_flips']} of {record['n_normal'] + record['n_defective']}",
        f"{figures['map_error']:.1e}",
        *graph,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
