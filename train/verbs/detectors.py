"""The verbs of detectors: trained, judged, their thresholds, and a table over the categories of a folder."""

from pathlib import Path
from typing import Annotated

import typer

from train.verbs.terminal import AsJson, Data, Generators, Settings, print_json, said_plainly, say, stopped_training

CHANCE = 0.5  # image AUROC of a score that knows nothing


def fit(
    detector: Annotated[str, typer.Argument(help="aesc, fastflow, anogan or f_anogan", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    config: Annotated[
        str | None, typer.Option("--config", help="NAME of configs/DETECTOR/ or a file; cpu on a CPU, paper on a GPU.")
    ] = None,
    settings: Settings = [],  # noqa: B006  typer reads it, nobody writes it
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run was.")] = False,
    product: Annotated[str | None, typer.Option("--product", help="Its name; the data folder's by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a detector on good images and fit its thresholds on held-out ones."""
    with said_plainly(stopped_training(out)):
        import jax

        from train.commands import check_data, choose_config, choose_detector, resolve, train_run
        from train.config import config_digest
        from train.data.folder import open_dataset

        system = choose_detector(detector)
        path = choose_config(system, config, out if resume else None)
        resolved = resolve(system, path, settings)
        dataset = open_dataset(data)
        say(
            f"{detector} with {path} (digest {config_digest(resolved)}) on {jax.default_backend()}, "
            f"{len(dataset.train)} good images"
        )
        check_data(dataset, say, [resolved.generated_defects] if resolved.generated_defects else [])
        thresholds = train_run(system, resolved, dataset, out, product=product or data.resolve().stem, resume=resume)
        if as_json:
            print_json({"run": str(out), "thresholds": thresholds.model_dump()})
        else:
            say(thresholds.rule)
            say(f"Trained: {out}. Next: python -m train evaluate {out} --data {data}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder.", show_default=False)],
    data: Data,
    settings: Settings = [],  # noqa: B006
    generator: Generators = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge a run on test images: RUN/metrics.json and RUN/report.html."""
    with said_plainly():
        from train.commands import judge_run
        from train.data.folder import open_dataset
        from train.run import open_run, thresholds_of

        dataset = open_dataset(data)
        trained = open_run(run, settings)
        thresholds_of(trained)  # says what is missing before any image is read
        metrics = judge_run(trained, dataset, generator, say)
        if as_json:
            typer.echo((run / "metrics.json").read_text())
        else:
            for line in (*headline(metrics), *cautions(metrics)):
                say(line)
            say(f"Report: {run / 'report.html'}   Next: python -m export bundle {run} --out bundles/{trained.product}")


def table(
    detector: Annotated[str, typer.Argument(help="aesc, fastflow, anogan or f_anogan", show_default=False)],
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder of categories (docs/data.md): bottle/, grid/, ...", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for all runs.", show_default=False)],
    config: Annotated[
        str | None, typer.Option("--config", help="NAME of configs/DETECTOR/ or a file; cpu on a CPU, paper on a GPU.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="0,1,2", help="Run each category once for each; the config's by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit and evaluate every category of a folder; RUNS/table.md and table.json set published figures beside ours.

    Started again, it leaves what is finished and goes on with the rest. A category that fails is named at the end (exit
    code 1); the others are not kept from theirs.
    """
    with said_plainly("Stopped. The same command goes on from the last checkpoint."):
        from train.all_categories import make_plan, run_plan
        from train.category_table import as_json as table_as_json
        from train.category_table import as_text, make_table, write_table
        from train.commands import choose_config, choose_detector

        system = choose_detector(detector)
        plan = make_plan(system, choose_config(system, config), settings, seeds, data, out)
        for note in plan.notes:
            say(note)
        outcomes = run_plan(plan, say, lambda so_far: write_table(make_table(plan, so_far)))
        result = make_table(plan, outcomes)
        if as_json:
            print_json(table_as_json(result))
        else:
            typer.echo(as_text(result))
            say(f"Table: {out / 'table.md'} and table.json")
        if result.failed:
            say(f"{len(result.failed)} of {len(outcomes)} runs failed. Mend what they say; the same command goes on.")
            raise typer.Exit(1)


def threshold(
    run: Annotated[Path, typer.Argument(help="The run folder of a detector.", show_default=False)],
    defects: Annotated[
        Path | None, typer.Option("--defects", help="Folder of generated defects, as `synthesize` writes them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a run's image threshold between held-out good images and generated defects; RUN/thresholds.json.

    For the time before any real defect was seen. Without --defects it is fitted as `fit` does it, on the held-out good
    images alone.
    """
    with said_plainly():
        from train.defect_threshold import refit

        result = refit(run, defects)
        if as_json:
            print_json(result.as_json())
        else:
            for line in result.sentences():
                say(line)
            say(f"Thresholds: {run / 'thresholds.json'}. Next: python -m train evaluate {run} --data FOLDER")


def cautions(metrics: dict[str, object]) -> list[str]:
    """What a person must not overlook."""
    area = metrics.get("image_auroc")
    if not isinstance(area, float) or area >= CHANCE:
        return []
    return [
        f"Worse than chance: good parts score higher than defective ones (image AUROC {area:.3f}; 0.5 is a coin). "
        "Look at the report, and don't ship this run."
    ]


def headline(metrics: dict[str, object]) -> list[str]:
    """The figures that a person looks for first."""
    shown = {
        "image_auroc": "image AUROC",
        "pixel_auroc": "pixel AUROC",
        "aupro": "AUPRO (FPR <= 0.3)",
        "image_f1_max": "F1-max",
        "false_reject_rate": "false-reject rate",
        "escape_rate_overall": "escape rate",
        "stain_detection_rate_held_out": "detection rate on drawn stains",
    }
    return [f"{words}: {metrics[key]:.3f}" for key, words in shown.items() if isinstance(metrics.get(key), float)]
