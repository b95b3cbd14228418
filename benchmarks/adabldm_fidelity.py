"""Does AdaBLDM keep the background and put the defect where it was asked for: one JSON per set, strips of all stages.

    python benchmarks/adabldm_fidelity.py --run RUN --data FOLDER --count 4 --sheets FOLDER

Draws on normal test images, which no training has seen, the categories in turn, as `synthesize --split test` does.
Of every image and of the means: PSNR and mean absolute error outside the mask before and after the adaptation, the
change inside over that outside, AUROC of |x* - x_OK| against the mask, both terms of the adaptation's loss before its
first and its last iteration. Gates: PSNR at least 35 dB, a third of the error left at most, ratio at least 5, AUROC at
least 0.95. Writes benchmarks/results/adabldm/fidelity-NAME.json after each image; nothing is chosen and none left out.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from edge_agent.preprocess import prepare, read_image
from train.durable import write_text
from train.generators.adabldm.fidelity import Fidelity
from train.generators.adabldm.painter import AdaBLDMPainter
from train.generators.run import open_generator
from train.pictures import GAP, write_picture
from train.provenance import commit, versions
from train.synthesis.regions import parse_region
from train.synthesis.sources import find_sources
from train.synthesis.task import Task, region_of
from train.synthesis.wishes import Wishes

RESULTS = Path(__file__).parent / "results" / "adabldm"


def main(
    run: Annotated[Path, typer.Option(help="A run of adabldm.")],
    data: Annotated[Path, typer.Option(help="The set that it was trained on.")],
    count: Annotated[int, typer.Option(help="Images.")] = 4,
    seed: Annotated[int, typer.Option(help="Of images, masks and noise.")] = 0,
    sheets: Annotated[Path | None, typer.Option(help="Folder for the strips.")] = None,
    name: Annotated[str, typer.Option(help="Of the row; the product's by default.")] = "",
    adaptation: Annotated[int | None, typer.Option(help="Iterations; as the run has it by default.")] = None,
    renoise: Annotated[str | None, typer.Option(help="current or prev; as the run has it by default.")] = None,
) -> None:
    """Draw, measure, write the JSON and print a table."""
    trained = open_generator(run)
    painter = AdaBLDMPainter(trained, Wishes(batch=1, sheets=True, adaptation=adaptation, renoise=renoise))
    name = name or trained.product
    config = painter.config
    record: dict[str, Any] = {
        "row": name,
        "product": trained.product,
        "updates": trained.step,
        "of_updates": config.epochs * config.steps_per_epoch,
        "size": config.size,
        "image_size": config.image_size,
        "drawing": {key: value for key, value in painter.identity["drawing"].items() if key != "sheets"},
        "config_digest": painter.identity["config_digest"],
        "data_digest": painter.identity["data_digest"],
        "weights_digest": painter.identity["weights_digest"],
        "seed": seed,
        "device": f"{jax.devices()[0].platform} {jax.devices()[0].device_kind}",
        "measured_at": commit(),
        "versions": versions(),
        "images": [],
    }
    sources, region = find_sources(data, side="test", seed=seed, restore=False), parse_region("anywhere")
    rows = []
    for index in range(count):
        category = painter.categories[index % len(painter.categories)]
        task = Task(index, seed, (category,), 1.0, sources.of(index))
        frame = read_image(task.source.path)
        started, spent = time.monotonic(), time.process_time()
        painting = painter.paint(
            prepare(frame, painter.preprocessing)[None], region_of(task, region, frame, painter)[None], [task]
        )
        note = dict(painting.notes[0])
        figures = Fidelity(**note.pop("fidelity"))
        record["images"].append(
            {
                "index": index,
                "category": category,
                "source": task.source.name,
                **note,
                **figures._asdict(),
                "gates": figures.gates,
                "seconds": round(time.monotonic() - started, 1),
                "cpu_seconds": round(time.process_time() - spent, 1),
            }
        )
        record |= summary(record["images"])
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / f"fidelity-{name}.json", json.dumps(record, indent=1) + "\n")
        rows.append(painting.sheets[0])
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            write_picture(sheets / f"{name}_{index:03}_{category}.png", rows[-1])
            write_picture(sheets / f"{name}.png", stacked(rows))
        print(line(f"{category} {index}", record["images"][-1]), flush=True)
    print(line("mean", record["mean"]))
    print(f"gates of the means: {record['gates']}; images that pass: {record['images_that_pass']} of {count}")


def summary(images: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the images, which gates these pass, and how many images pass each."""
    mean = Fidelity(*(_mean([image[name] for image in images]) for name in Fidelity._fields))
    return {
        "mean": {**mean._asdict(), "error_left": mean.error / mean.error_before},
        "gates": mean.gates,
        "images_that_pass": {gate: sum(image["gates"][gate] for image in images) for gate in mean.gates},
    }


def line(what: str, of: dict[str, Any]) -> str:
    figures = (
        f"PSNR {of['psnr_before']:.1f} -> {of['psnr']:.1f} dB, error {of['error_before']:.4f} -> {of['error']:.4f} "
        f"({of['error'] / of['error_before']:.2f}), change inside/outside {of['change_ratio']:.1f}, "
        f"AUROC {of['auroc']:.3f}"
    )
    return f"{what:24}{figures}"


def stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Strips one below the other."""
    between = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, between)][:-1])


def _mean(values: list[float]) -> float:
    return float(f"{np.mean(values):.5g}")


if __name__ == "__main__":
    typer.run(main)
