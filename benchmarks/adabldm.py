"""What AdaBLDM's defects are worth: one JSON per row, kept in benchmarks/results/adabldm.

    python benchmarks/adabldm.py --data ../shared/data --autoencoder ../shared/weights \
        --features ../shared/weights/resnet18_stem_l123_bnfolded.safetensors            runs what is missing
    python benchmarks/adabldm.py --data ../shared/data --features FILE --runs RUNS --only "segmenter bottle real"
    python benchmarks/adabldm.py --table                                                prints the tables alone

The literature's protocol (sheet: "Evaluation protocol"): of each type ten real defects are learned from, the rest is
tested on, together with the good test images. Rows: a segmenter (train/segmenter) trained on the ten alone, on them and
as many painted images as --count says, or on them and as many pasted ones, three seeds each; and the distances of
painted and pasted images to the held-out defects. All arms see as many normal and as many defective images, in as many
steps. Painted images are taken as they come, none is sorted out. RUNS/bottle and RUNS/magnetic_tile are runs of
`fit-generator adabldm --defects-per-type 10 --seed 0`; one that is missing is trained with the config `cpu`. A row
whose file is there is not run again, and none is taken out because it came out badly.
"""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from adabldm_worth import SETS, Bench, distance, segmenter
from kept_row import Row, keep

RESULTS = Path(__file__).parent / "results" / "adabldm"
CONFIG, COUNT = "cpu", 60  # of the segmenter; of a set's images, painted or pasted
SEEDS = (0, 1, 2)
ARMS = ("real", "copy-paste", "generated")
FIGURES = {"pixel_auroc": "pixel AUROC", "aupro": "AUPRO", "ap": "AP", "iap": "IAP", "iap90": "IAP90"}


ROWS = (
    *(
        Row("segmenter", f"{dataset} {arm} {seed}", partial(segmenter, dataset=dataset, arm=arm, seed=seed))
        for seed in SEEDS
        for dataset in SETS
        for arm in ARMS
    ),
    *(Row("distance", dataset, partial(distance, dataset=dataset)) for dataset in SETS),
)


def main(
    data: Annotated[Path | None, typer.Option(help="Folder that holds the sets.")] = None,
    features: Annotated[Path | None, typer.Option(help="Weights of a ResNet18.")] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(help="TAEF2's weights, where a generator is to be trained.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders and made images are kept.")] = Path("runs/adabldm"),
    config: Annotated[str, typer.Option(help="Of the segmenter: configs/segmenter/NAME.yaml.")] = CONFIG,
    count: Annotated[int, typer.Option(help="Images painted of a set, and pasted.")] = COUNT,
    only: Annotated[str, typer.Option(help="Only rows whose name holds this text.")] = "",
    table: Annotated[bool, typer.Option("--table", help="Print the tables and run nothing.")] = False,
) -> None:
    """Run the missing rows and print all."""
    if not table:
        if data is None or features is None:
            raise typer.BadParameter("name the folder that holds the sets (--data) and a ResNet18 (--features)")
        runs.mkdir(parents=True, exist_ok=True)
        bench = Bench(data, runs, features, autoencoder, config, count)
        for row in ROWS:
            if only in row.name and not (path := path_of(row, config, count)).exists():
                keep(row, bench, path)
    print("\n".join(as_tables(config, count)))


def path_of(row: Row, config: str, count: int) -> Path:
    """The file that keeps it. With another config or another number of images than usual, one of its own."""
    uses_config = row.kind == "segmenter" and config != CONFIG
    uses_images = " real " not in row.name and count != COUNT
    other = f"-{config}" * uses_config + f"-with-{count}" * uses_images
    return RESULTS / f"{row.name.replace(' ', '-')}{other}.json"


def as_tables(config: str = CONFIG, count: int = COUNT) -> list[str]:
    """Markdown, one table per kind of row, and what is still open by name."""
    lines: list[str] = []
    for kind, draw in (("segmenter", segmenter_table), ("distance", distance_table)):
        rows = [row for row in ROWS if row.kind == kind]
        files = {row: path_of(row, config, count) for row in rows}
        records = [json.loads(file.read_text()) for file in files.values() if file.exists()]
        lines += [f"### {kind}: {len(records)} of {len(rows)} rows", "", *(draw(records) if records else []), ""]
        if missing := [row.of for row, file in files.items() if not file.exists()]:
            lines += [f"Not run yet: {', '.join(missing)}.", ""]
    return lines


def segmenter_table(records: list[dict[str, Any]]) -> list[str]:
    """Mean over the seeds, and each of them."""
    lines = [
        f"| set | trained on | seeds | {' | '.join(FIGURES.values())} |",
        f"|---|---|---|{'---|' * len(FIGURES)}",
    ]
    for dataset in SETS:
        for arm in ARMS:
            some = [r for r in records if r["row"].split()[1] == dataset and r["arm"] == arm]
            if some:
                cells = [_mean_and_each([r["figures"][key] for r in some]) for key in FIGURES]
                seeds = ", ".join(str(r["seed"]) for r in some)
                drawn = sorted({r["n_synthetic"] for r in some})
                what = arm if arm == "real" else f"real and {drawn[0]} {arm}"
                lines.append(f"| {dataset} | {what} | {seeds} | {' | '.join(cells)} |")
    return lines


def distance_table(records: Iterable[dict[str, Any]]) -> list[str]:
    lines = [
        "| set | images | n | Fréchet | at the floor's size | floor | kernel | its floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for what, found in record["to_held_out_defects"].items():
            who = f"{record['row'].split()[1]} | {what} | {found['n_generated']}"
            matched, floor, kernel_floor = (
                _spread(found[key]) for key in ("frechet_matched", "frechet_floor", "kernel_floor")
            )
            lines.append(
                f"| {who} | {found['frechet']:.3g} | {matched} | {floor} | {found['kernel']:.3g} | {kernel_floor} |"
            )
    return lines


def _mean_and_each(values: list[float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values)
    return each if len(values) == 1 else f"**{np.mean(values):.3f}** ({each})"


def _spread(value: list[float] | None) -> str:
    return f"{value[0]:.3g} ± {value[1]:.1g}" if value else ""


if __name__ == "__main__":
    typer.run(main)
