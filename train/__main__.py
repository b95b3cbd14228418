"""python -m train: fit a detector, evaluate a run, draw the demonstration line."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from edge_agent.preprocess import ImageError
from train.config import ConfigError
from train.data.folder import DataError

app = typer.Typer(
    help="Learn from good parts on the server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[
    Path, typer.Option("--data", help="Folder of images (docs/data.md) or a .csv table.", show_default=False)
]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.command(epilog="Example: python -m train fit aesc --data bottle --out runs/bottle")
def fit(
    detector: Annotated[str, typer.Argument(help="aesc", show_default=False)],
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
    with _said_plainly("Stopped. The same command with --resume goes on from the last checkpoint."):
        import jax

        from train.config import config_digest, find_config, load_config
        from train.data.folder import open_dataset
        from train.detectors import find_detector
        from train.fit import fit as fit_detector

        try:
            system = find_detector(detector)
        except KeyError as error:
            raise ConfigError(error.args[0]) from None
        backend = jax.default_backend()
        if config is None and resume and (out / "config.yaml").exists():
            path = out / "config.yaml"
        else:
            path = find_config(detector, config or ("cpu" if backend == "cpu" else "paper"))
        resolved = load_config(path, system.schema, settings)
        dataset = open_dataset(data)
        _say(
            f"{detector} with {path} (digest {config_digest(resolved)}) on {backend}, {len(dataset.train)} good images"
        )
        _check(dataset)
        thresholds = fit_detector(system, resolved, dataset, out, product=product or data.resolve().stem, resume=resume)
        if as_json:
            _print_json({"run": str(out), "thresholds": thresholds.model_dump()})
        else:
            _say(thresholds.rule)
            _say(f"Trained: {out}. Next: python -m train evaluate {out} --data {data}")


@app.command(epilog="Example: python -m train evaluate runs/bottle --data bottle")
def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder.", show_default=False)],
    data: Data,
    settings: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge a run on test images: RUN/metrics.json and RUN/report.html."""
    with _said_plainly():
        from train.data.folder import open_dataset
        from train.evaluate import evaluate as evaluate_detector
        from train.evaluate import write_metrics
        from train.progress import Work
        from train.report import write_report
        from train.run import about, held_out_with_stains, open_run, thresholds_of

        trained = open_run(run, settings)
        thresholds = thresholds_of(trained)
        dataset = open_dataset(data)
        defective = any(not sample.is_good for sample in dataset.test)
        held_out = None if defective else held_out_with_stains(trained)
        with Work("scoring", len(dataset.test) + (2 * len(held_out.images) if held_out else 0)) as work:
            evaluation = evaluate_detector(
                trained.score_batch,
                dataset,
                trained.preprocessing,
                thresholds,
                about(trained),
                held_out=held_out,
                on_progress=work.reached,
            )
        write_metrics(run / "metrics.json", evaluation.metrics)
        write_report(
            run / "report.html",
            evaluation,
            config=trained.config.model_dump(mode="json"),
            provenance=trained.provenance,
            score_definition=trained.score_definition,
        )
        if as_json:
            typer.echo((run / "metrics.json").read_text())
        else:
            for line in headline(evaluation.metrics):
                _say(line)
            _say(f"Report: {run / 'report.html'}   Next: python -m export bundle {run} --out bundles/{trained.product}")


@app.command(epilog="Example: python -m train draw --out line")
def draw(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Other parts of the same product.")] = 0,
    size: Annotated[int, typer.Option(help="Side of an image in pixels.")] = 256,
    count: Annotated[int, typer.Option(help="Good parts to train on.")] = 60,
    test_good: Annotated[int, typer.Option(help="Good parts to test on.")] = 20,
    defects_per_type: Annotated[int, typer.Option(help="Defective parts of each type.")] = 8,
) -> None:
    """Draw the demonstration line: images of good and defective parts, with masks."""
    with _said_plainly():
        from train.data.draw import draw_product_line
        from train.progress import Work

        with Work("drawing", 1) as work:
            draw_product_line(
                out,
                seed=seed,
                size=size,
                train=count,
                test_good=test_good,
                defects_per_type=defects_per_type,
                progress=work.reached,
            )
        _say(f"Drawn: {out}. Next: python -m train fit aesc --data {out} --out runs/{out.name}")


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


def _check(dataset: object) -> None:
    """The data check: a line per finding; stops with exit code 2 where training would be wrong."""
    from train.data.check import as_lines, check
    from train.data.folder import Dataset
    from train.progress import Work

    assert isinstance(dataset, Dataset)
    with Work("checking images", 1) as work:
        findings = check(dataset, progress=work.reached)
    for line in as_lines(findings):
        _say(line)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise DataError(
            f"{errors} of these would make the training wrong; nothing was trained. Mend them and start again."
        )


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def _said_plainly(stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed or was stopped."""
    from train.evaluate import EvaluationError
    from train.fit import TrainingDiverged
    from train.fit_threshold import ThresholdError
    from train.run import RunError

    try:
        yield
    except (ConfigError, DataError, ImageError, RunError) as error:
        _say(str(error))
        raise typer.Exit(2) from None
    except (TrainingDiverged, EvaluationError, ThresholdError) as error:
        _say(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        _say(f"{error.filename or 'A file'} can't be used: {error.strerror or error}.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say(stopped)
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        if os.environ.get("FAULTLINE_LOG", "").lower() == "debug":
            raise
        _say(f"Unexpected: {type(error).__name__}: {error}. FAULTLINE_LOG=debug shows where.")
        raise typer.Exit(1) from None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(app(prog_name="python -m train"))
