"""What Defect-GAN's defects are worth: one JSON per row, kept in benchmarks/results/defect_gan.

    python benchmarks/defect_gan.py --data ../shared/data \
        --features ../shared/weights/resnet18_stem_l123_bnfolded.safetensors            runs what is missing
    python benchmarks/defect_gan.py --data ../shared/data --features FILE --only classifier
    python benchmarks/defect_gan.py --table                                             prints the tables alone

Rows: trainings with the `cpu` config (does the mask collapse, is the background untouched); the distance to real
training defects from checkpoint to checkpoint, and once to held-out ones; the paper's ablations at one small budget;
a classifier with and without drawn defects; AESc corrupted by Stain, by drawn defects or by both, with thresholds from
good images alone or from drawn defects; which detector drawn defects would choose. Nothing is chosen on held-out or
test images. Every row says its seed; a row whose file is there is not run again, and none is taken out because it came
out badly. With --as-it-is a generator that is still in training is taken as it is: its rows say how many of its updates
it had, and are measured again by a later call without.
"""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from defect_gan_worth import Bench, ablation, aesc, classifier, distance, selection, training
from kept_row import Row, keep

RESULTS = Path(__file__).parent / "results" / "defect_gan"
SETS = ("leather_classes", "magnetic_tile")
SEEDS = (0, 1, 2)
ABLATION_SEEDS = (0, 1)
BUDGET = ("epochs=6",)  # of an ablation: 360 updates of the generator, some 6 minutes of one core
VARIANTS = {"full": "cpu", "no composition": "no_composition", "no noise": "no_noise", "StarGAN": "no_spade"}
ARMS = ("real", "drawn", "drawn, source reversed")
CORRUPTIONS = ("stain", "drawn", "both")


def path_of(row: Row) -> Path:
    """The file that keeps it."""
    return RESULTS / f"{row.name.replace(', ', '-').replace(' ', '-')}.json"


ROWS = (
    *(Row("training", dataset, partial(training, dataset=dataset)) for dataset in SETS),
    *(Row("distance", dataset, partial(distance, dataset=dataset)) for dataset in SETS),
    *(
        Row("classifier", f"leather_classes {arm} {seed}", partial(classifier, dataset=SETS[0], arm=arm, seed=seed))
        for seed in SEEDS
        for arm in ARMS
    ),
    *(
        Row("aesc", f"magnetic_tile {arm} {seed}", partial(aesc, dataset=SETS[1], arm=arm, seed=seed))
        for seed in SEEDS
        for arm in CORRUPTIONS
    ),
    Row(
        "selection", "magnetic_tile", lambda bench: selection([kept(row, bench) for row in ROWS if row.kind == "aesc"])
    ),
    *(
        Row(
            "ablation",
            f"leather_classes {name} {seed}",
            partial(
                ablation,
                dataset=SETS[0],
                config=config,
                settings=(*BUDGET, f"seed={seed}"),
                name=f"{name.replace(' ', '-')}-{seed}",
            ),
        )
        for seed in ABLATION_SEEDS
        for name, config in VARIANTS.items()
    ),
)


def main(
    data: Annotated[Path | None, typer.Option(help="Folder that holds the sets.")] = None,
    features: Annotated[
        str, typer.Option(help="Weights of the network that distances are taken on, or its name.")
    ] = "",
    runs: Annotated[Path, typer.Option(help="Where run folders and drawn images are kept.")] = Path("runs/defect_gan"),
    only: Annotated[str, typer.Option(help="Only rows whose name holds this text.")] = "",
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Take a generator that is still in training at its newest checkpoint.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the tables and run nothing.")] = False,
) -> None:
    """Run the missing rows and print all."""
    if not table:
        if data is None or not features:
            raise typer.BadParameter("name the folder that holds the sets (--data) and a network (--features)")
        runs.mkdir(parents=True, exist_ok=True)
        bench = Bench(data, runs, features, as_it_is)
        for row in ROWS:
            if only in row.name:
                kept(row, bench)
    print("\n".join(as_tables()))


def kept(row: Row, bench: Bench) -> dict[str, Any]:
    """What the row's file holds; measured first if there is none, or if it is of a generator that was in training."""
    path = path_of(row)
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        if bench.as_it_is or not of_unfinished(record):
            return record
    return keep(row, bench, path)


def of_unfinished(record: dict[str, Any]) -> bool:
    """Whether the row is of a generator whose training had not ended."""
    about = record.get("generator") or record
    return about.get("generator_updates", 0) < about.get("of_generator_updates", 0)


def as_tables() -> list[str]:
    """Markdown, one table per kind of row."""
    lines: list[str] = []
    for kind, draw in (
        ("training", training_table),
        ("distance", distance_table),
        ("ablation", ablation_table),
        ("classifier", classifier_table),
        ("aesc", aesc_table),
        ("selection", selection_table),
    ):
        rows = [row for row in ROWS if row.kind == kind]
        records = [json.loads(path.read_text()) for path in map(path_of, rows) if path.exists()]
        lines += [f"### {kind}: {len(records)} of {len(rows)} rows", "", *(draw(records) if records else []), ""]
    return lines


def training_table(records: Iterable[dict[str, Any]]) -> list[str]:
    lines = [
        "| set | generator updates | mean mask, smallest to largest of all epochs | outside the mask, largest change | "
        "pixels outside |",
        "|---|---|---|---|---|",
    ]
    for r in records:
        lines.append(
            f"| {_of(r)} | {r['generator_updates']} of {r['of_generator_updates']} | "
            f"{r['smallest_mean_mask']:.3f} to {r['largest_mean_mask']:.3f} | "
            f"{r['background_max_abs_grey_levels']}/255 | {r['pixels_outside_the_mask']:.0%} |"
        )
    return lines


def distance_table(records: Iterable[dict[str, Any]]) -> list[str]:
    lines = ["| set, compared with | step | Fréchet | at the floor's size | floor | kernel | its floor |"]
    lines.append("|---|---|---|---|---|---|---|")
    for r in records:
        for point in r["to_training_defects_by_step"]:
            lines.append(f"| {_of(r)}, training defects | {point['step']} | {_distances(point)} |")
        end = r["to_training_defects_by_step"][-1]["step"]
        lines.append(f"| {_of(r)}, **held-out defects** | {end} | {_distances(r['to_held_out_defects'])} |")
        plain = r["normal_images_to_held_out_defects"]
        lines.append(f"| {_of(r)}, held-out defects | the normal images as they are | {_distances(plain)} |")
    return lines


def ablation_table(records: Iterable[dict[str, Any]]) -> list[str]:
    lines = [
        "| row | mean mask | to training defects: Fréchet, at the floor's size, floor, kernel, its floor | "
        "to held-out ones |"
    ]
    lines.append("|---|---|---|---|")
    for r in records:
        mask = f"{r['mask_defect']:.3f}" if "mask_defect" in r else ""
        training_side = _distances(r["to_training_defects"]).replace(" | ", ", ")
        lines.append(
            f"| {_of(r)} | {mask} | {training_side} | {_distances(r['to_held_out_defects']).replace(' | ', ', ')} |"
        )
    return lines


def classifier_table(records: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| trained on | accuracy on real test images, by seed | mean | mean over classes | n test |",
        "|---|---|---|---|---|",
    ]
    for arm in ARMS:
        of_arm = [r for r in records if r["arm"] == arm]
        if of_arm:
            each = ", ".join(f"{r['accuracy']:.3f}" for r in of_arm)
            mean, classes = (np.mean([r[key] for r in of_arm]) for key in ("accuracy", "mean_class_accuracy"))
            lines.append(f"| {arm} | {each} | {mean:.3f} | {classes:.3f} | {of_arm[0]['n_test']} |")
    return lines


def aesc_table(records: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| corrupted by | scoring | image AUROC on held-out real defects, by seed | mean | "
        "threshold of good images: false rejects, escapes | threshold of drawn defects | chosen on the test images |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in CORRUPTIONS:
        for scoring in ("residual", "uncertainty"):
            some = [r[scoring] for r in records if r["arm"] == arm]
            if not some:
                continue
            each = ", ".join(f"{one['auroc_real']:.3f}" for one in some)
            cells = [
                f"{np.mean([one[key]['false_reject_rate'] for one in some]):.3f}, "
                f"{np.mean([one[key]['escape_rate'] for one in some]):.3f}"
                for key in (
                    "threshold_of_good_images",
                    "threshold_of_drawn_defects",
                    "threshold_chosen_on_the_test_images",
                )
            ]
            mean = np.mean([one["auroc_real"] for one in some])
            lines.append(f"| {arm} | {scoring} | {each} | {mean:.3f} | {' | '.join(cells)} |")
    return lines


def selection_table(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| chosen by | detector | AUROC on drawn defects | AUROC on real ones |", "|---|---|---|---|"]
    for r in records:
        for key in ("chosen_by_drawn_defects", "best_on_real_defects"):
            one = r[key]
            who = f"{one['arm']}, {one['scoring']}, seed {one['seed']}"
            lines.append(f"| {key.replace('_', ' ')} | {who} | {one['auroc_drawn']:.3f} | {one['auroc_real']:.3f} |")
        lines.append(f"| mean of all {len(r['candidates'])} | | | {r['mean_auroc_real_of_all']:.3f} |")
        lines.append(f"| rank correlation of the two | | | {r['rank_correlation']:.2f} |")
    return lines


def _of(record: dict[str, Any]) -> str:
    return str(record["row"]).split(" ", 1)[1]


def _distances(point: dict[str, Any]) -> str:
    matched, floor, kernel_floor = (point[key] for key in ("frechet_matched", "frechet_floor", "kernel_floor"))

    def spread(value: list[float] | None) -> str:
        return f"{value[0]:.3g} ± {value[1]:.1g}" if value else ""

    return (
        f"{point['frechet']:.3g} | {spread(matched)} | {spread(floor)} | {point['kernel']:.3g} | {spread(kernel_floor)}"
    )


if __name__ == "__main__":
    typer.run(main)
