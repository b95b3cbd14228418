"""The accuracy table: one JSON per (set, system, config digest, seed), kept in benchmarks/results/accuracy.

    python benchmarks/accuracy.py --data ../shared/data              runs what is missing, then prints the table
    python benchmarks/accuracy.py --data ../shared/data --only bottle
    python benchmarks/accuracy.py --data ../shared/data --only FastFlow \
        --backbone-weights ../shared/weights/resnet18_stem_l123_bnfolded.safetensors
    python benchmarks/accuracy.py --table                            prints the table alone

Every row is a training with the named config, evaluated at its last step or at the checkpoint that the recipe itself
picks on held-out good images; the test set is seen once, at the end. Evidence accumulates: a row whose file is there is
not run again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from train.config import config_digest, find_config, load_config
from train.detectors import find_detector
from train.durable import write_text

RESULTS = Path(__file__).parent / "results" / "accuracy"
KEPT = (
    "image_auroc",
    "pixel_auroc",
    "aupro",
    "image_aupr",
    "image_f1_max",
    "false_reject_rate",
    "escape_rate_overall",
    "n_normal",
    "n_defective",
    "data_digest",
    "versions",
)


@dataclass(frozen=True)
class Row:
    """One training and one evaluation of it."""

    dataset: str  # folder below --data
    system: str
    name: str  # as the table shows it
    config: str = "cpu"
    training: tuple[str, ...] = ()  # --set of fit
    scoring: tuple[str, ...] = ()  # --set of evaluate; another scoring of a run shares its training
    backbone: str = ""  # whose published weights the row needs

    def run_folder(self, runs: Path) -> Path:
        digest = config_digest(self._settings(self.training))
        return runs / f"{self.dataset.replace('/', '-')}-{self.system}-{digest}"

    @property
    def path(self) -> Path:
        digest = config_digest(self._settings((*self.training, *self.scoring)))
        return RESULTS / f"{self.dataset.replace('/', '-')}-{self.system}-{digest}.json"

    def _settings(self, overrides: Iterable[str]) -> Any:
        return load_config(find_config(self.system, self.config), find_detector(self.system).schema, tuple(overrides))


SETS = ("mvtec_ad/bottle", "mvtec_ad/grid", "mvtec_ad/screw", "magnetic_tile")
ROWS = (
    *(Row(dataset, "aesc", "AESc + Stain") for dataset in SETS),
    *(Row(dataset, "aesc", "AESc, no noise", training=("noise=none",)) for dataset in SETS),
    *(Row(dataset, "aesc", "AE + Stain", training=("network=ae",)) for dataset in SETS),
    *(
        Row(dataset, "aesc", "AESc + Stain, uncertainty", scoring=("scoring=uncertainty",))
        for dataset in ("mvtec_ad/bottle",)
    ),
    *(Row(dataset, "fastflow", "FastFlow ResNet18", backbone="resnet18") for dataset in SETS),
    *(
        Row(dataset, system, name)
        for system, name in (("anogan", "AnoGAN"), ("f_anogan", "f-AnoGAN"))
        for dataset in ("mvtec_ad/bottle", "magnetic_tile")
    ),
    *(
        Row("all sets", "fastflow", f"FastFlow {backbone}", config=backbone, backbone=backbone)
        for backbone in (
            "wide_resnet50_2",
            "deit_base_distilled_384",
            "cait_m48_448",
            "dinov2_vits14",
            "dinov2_vitb14",
        )
    ),
)
WEIGHTS_AT_HAND = "resnet18"  # of the other backbones nobody has brought weights yet


def main(
    data: Annotated[Path | None, typer.Option(help="Folder that holds the sets.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs/accuracy"),
    only: Annotated[str, typer.Option(help="Only rows whose set and system hold this text.")] = "",
    backbone_weights: Annotated[Path | None, typer.Option(help="ResNet18's weights; without it no FastFlow.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the table and run nothing.")] = False,
) -> None:
    """Run the missing rows and print all."""
    if not table:
        if data is None:
            raise typer.BadParameter("name the folder that holds the sets, for example --data ../shared/data")
        for row in ROWS:
            possible = not row.backbone or (row.backbone == WEIGHTS_AT_HAND and backbone_weights)
            if possible and only in f"{row.dataset} {row.name}" and not row.path.exists():
                measure(row, data, runs, backbone_weights)
    print("\n".join(as_table(ROWS)))


def measure(row: Row, data: Path, runs: Path, backbone_weights: Path | None) -> None:
    """Trains (or goes on, or reuses a finished run), evaluates, writes the row's file."""
    run, folder = row.run_folder(runs), data / row.dataset
    started = time.monotonic()
    finished = (run / "thresholds.json").exists()
    if not finished:
        fit = ["fit", row.system, "--data", str(folder), "--out", str(run), "--config", row.config]
        weights = [f"backbone_weights={backbone_weights}"] if row.backbone else []
        fit += [word for setting in (*row.training, *weights) for word in ("--set", setting)]
        _train(*fit, *(["--resume"] if run.exists() else []))
    trained = time.monotonic()
    overrides = [word for setting in row.scoring for word in ("--set", setting)]
    metrics = json.loads(_train("evaluate", str(run), "--data", str(folder), "--json", *overrides))
    provenance = json.loads((run / "provenance.json").read_text())
    record = {
        "set": row.dataset,
        "system": row.system,
        "name": row.name,
        "config": row.config,
        "settings": [*row.training, *row.scoring],
        "config_digest": metrics["config_digest"],
        "seed": metrics["seed"],
        "scoring": metrics["scoring"],
        **{key: metrics[key] for key in KEPT},
        "fit_minutes": None if finished else round((trained - started) / 60, 2),
        "device": provenance["device"],
        "commit": provenance["commit"],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(row.path, json.dumps(record, indent=1) + "\n")


def _train(*arguments: str) -> str:
    print("python -m train", *arguments, file=sys.stderr, flush=True)
    return subprocess.run(
        [sys.executable, "-m", "train", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def as_table(rows: Iterable[Row]) -> list[str]:
    """Markdown, with the mean over the sets of each system where all of them have been run."""
    lines = ["| set | system | config | image AUROC | pixel AUROC | AUPRO | F1-max |", "|---|---|---|---|---|---|---|"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not row.path.exists():
            why = "not measured: no weights" if row.backbone not in ("", WEIGHTS_AT_HAND) else "not run"
            lines.append(f"| {row.dataset} | {row.name} | {row.config} | {why} | | | |")
            continue
        record = json.loads(row.path.read_text())
        by_name.setdefault(row.name, []).append(record)
        lines.append(f"| {row.dataset} | {row.name} | {row.config} | {_figures(record)} |")
    for name, records in by_name.items():
        if len(records) > 1:
            keys = ("image_auroc", "pixel_auroc", "aupro", "image_f1_max")
            mean = {key: sum(record[key] for record in records) / len(records) for key in keys}
            lines.append(f"| mean of {len(records)} | {name} | | {_figures(mean)} |")
    return lines


def _figures(record: dict[str, Any]) -> str:
    return " | ".join(f"{record[key]:.3f}" for key in ("image_auroc", "pixel_auroc", "aupro", "image_f1_max"))


if __name__ == "__main__":
    typer.run(main)
