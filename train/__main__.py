"""python -m train: fit a detector, evaluate a run; both for every category of a folder; data unpacked and drawn."""

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

from train.synthesis import options

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
Generators = Annotated[
    list[Path],
    typer.Option(
        "--generator",
        metavar="FOLDER",
        help="A generator's run, or what it drew: images that it was trained on are left out. Repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.command(epilog="Example: python -m train fit aesc --data bottle --out runs/bottle")
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
    with _said_plainly("Stopped. The same command with --resume goes on from the last checkpoint."):
        import jax

        from train.commands import check_data, choose_config, choose_detector, resolve, train_run
        from train.config import config_digest
        from train.data.folder import open_dataset

        system = choose_detector(detector)
        path = choose_config(system, config, out if resume else None)
        resolved = resolve(system, path, settings)
        dataset = open_dataset(data)
        _say(
            f"{detector} with {path} (digest {config_digest(resolved)}) on {jax.default_backend()}, "
            f"{len(dataset.train)} good images"
        )
        check_data(dataset, _say, [resolved.generated_defects] if resolved.generated_defects else [])
        thresholds = train_run(system, resolved, dataset, out, product=product or data.resolve().stem, resume=resume)
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
    generator: Generators = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge a run on test images: RUN/metrics.json and RUN/report.html."""
    with _said_plainly():
        from train.commands import judge_run
        from train.data.folder import open_dataset
        from train.run import open_run, thresholds_of

        trained = open_run(run, settings)
        thresholds_of(trained)  # says what is missing before any image is read
        metrics = judge_run(trained, open_dataset(data), generator, _say)
        if as_json:
            typer.echo((run / "metrics.json").read_text())
        else:
            for line in headline(metrics):
                _say(line)
            _say(f"Report: {run / 'report.html'}   Next: python -m export bundle {run} --out bundles/{trained.product}")


@app.command(epilog="Example: python -m train table aesc --data mvtec_ad --out runs/mvtec_ad --seeds 0,1,2")
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
    with _said_plainly("Stopped. The same command goes on from the last checkpoint."):
        from train.all_categories import make_plan, run_plan
        from train.category_table import as_json as table_as_json
        from train.category_table import as_text, make_table, write_table
        from train.commands import choose_config, choose_detector

        system = choose_detector(detector)
        plan = make_plan(system, choose_config(system, config), settings, seeds, data, out)
        for note in plan.notes:
            _say(note)
        outcomes = run_plan(plan, _say, lambda so_far: write_table(make_table(plan, so_far)))
        result = make_table(plan, outcomes)
        if as_json:
            _print_json(table_as_json(result))
        else:
            typer.echo(as_text(result))
            _say(f"Table: {out / 'table.md'} and table.json")
        if result.failed:
            _say(f"{len(result.failed)} of {len(outcomes)} runs failed. Mend what they say; the same command goes on.")
            raise typer.Exit(1)


@app.command(epilog="Example: python -m train compare leather/test synthetic/test --features resnet18.safetensors")
def compare(
    real: Annotated[Path, typer.Argument(help="Folder of real images.", show_default=False)],
    generated: Annotated[Path, typer.Argument(help="Folder of generated ones.", show_default=False)],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="FILE|NAME",
            help="Weights of the network that compares, or its name. FID takes pt_inception-2015-12-05-6726825d.pth.",
            show_default=False,
        ),
    ],
    size: Annotated[
        int | None, typer.Option(help="Side to which both are scaled first; the generated images' own by default.")
    ] = None,
    splits: Annotated[int, typer.Option(help="Random halves of the real images, for the floor.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the halves and subsets.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="RUN", help="Write the figures into this generator's report too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How near generated images are to real ones, beside how near real ones are to each other; per class, diversity.

    A class is a folder's name. Masks below ground_truth/ are left out.
    """
    with _said_plainly():
        from train.generators.fit import write_report
        from train.generators.run import open_generator
        from train.quality.command import compare_folders
        from train.quality.wording import quality_section, sentences

        generator = open_generator(report) if report else None  # says what is missing before the work is done
        comparison = compare_folders(real, generated, features, size=size, splits=splits, seed=seed)
        if generator is not None:
            write_report(generator, (quality_section(comparison),))
        if as_json:
            _print_json(comparison.as_json())
        else:
            for line in sentences(comparison):
                typer.echo(line)


@app.command(epilog="Example: python -m train synthesize runs/bottle --data bottle --out drawn --count 200")
def synthesize(
    run: options.Run,
    data: options.Backgrounds,
    out: options.Out,
    count: options.Count = None,
    category: options.Category = [],  # noqa: B006
    region: options.Where = "anywhere",
    confine: options.Confine = False,
    strength: options.Strength = 1.0,
    seed: options.Seed = 0,
    restore: options.Restore = False,
    split: options.Split = "train",
    mask_threshold: options.Threshold = 0.5,
    shard: options.Shard = "1/1",
    engine: options.Engine = "jax",
    as_json: AsJson = False,
) -> None:
    """Draw defects on normal images, or take them away: images, masks, and where each comes from (docs/synthesis.md).

    Started again, it goes on. The same words give the same files, byte for byte, whatever the parts.
    """
    with _said_plainly("Stopped. What is written is whole; the same command goes on."):
        if engine != "jax":  # engines are the export's: the same words go there
            os.execv(sys.executable, [sys.executable, "-m", "export", *sys.argv[1:]])
        from train.generators.run import open_generator
        from train.synthesis.command import as_json as summary_as_json
        from train.synthesis.command import conclude, run_job
        from train.synthesis.jax_painter import JaxPainter

        summary = run_job(
            JaxPainter(open_generator(run)),
            run,
            data,
            out,
            count=count,
            category=category,
            region=region,
            strength=strength,
            seed=seed,
            restore=restore,
            split=split,
            threshold=mask_threshold,
            confine=confine,
            shard=shard,
            say=_say,
        )
        if as_json:
            _print_json(summary_as_json(summary, out))
        if not conclude(summary, out, restored=restore, say=_say):
            raise typer.Exit(1)


@app.command(epilog="Example: python -m train crop-normal bridge/images --out patches/train/good --count 5000")
def crop_normal(
    images: Annotated[Path, typer.Argument(help="Folder of full-size images.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder for the patches.", show_default=False)],
    count: Annotated[int, typer.Option("--count", help="Patches in all, as many of each image.", show_default=False)],
    size: Annotated[int, typer.Option("--size", help="Side of a patch in pixels.")] = 128,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", help="Of the defects, to be avoided: a folder of VOC .xml files, or a .csv table."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other places.")] = 0,
) -> None:
    """Crop normal patches from full-size images, away from the boxes of their defects."""
    with _said_plainly("Stopped. What is written is whole; the same command goes on."):
        from train.data.normal_patches import crop_normal as crop
        from train.progress import Work

        with Work("cropping", count) as work:
            written = crop(images, out, size=size, count=count, boxes=boxes, seed=seed, progress=work.reached)
        _say(
            f"Cropped: {written} patches in {out}" + (f"; no more than that fit, of {count}" if written < count else "")
        )


@app.command(epilog="Example: python -m train threshold runs/bottle --defects synthetic/bottle")
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
    with _said_plainly():
        from train.defect_threshold import refit

        result = refit(run, defects)
        if as_json:
            _print_json(result.as_json())
        else:
            for line in result.sentences():
                _say(line)
            _say(f"Thresholds: {run / 'thresholds.json'}. Next: python -m train evaluate {run} --data FOLDER")


@app.command(
    "fit-generator",
    epilog="Example: python -m train fit-generator defect_gan --data magnetic_tile --out runs/tile_defects",
)
def fit_generator(
    generator: Annotated[str, typer.Argument(help="defect_gan", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    config: Annotated[
        str | None, typer.Option("--config", help="NAME of configs/GENERATOR/ or a file; cpu on a CPU, paper on a GPU.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    defects_per_type: Annotated[
        int | None,
        typer.Option(
            "--defects-per-type",
            help="Train on so many of each type, where the data keeps its defects for the test; half by default.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which of them.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run was.")] = False,
    product: Annotated[str | None, typer.Option("--product", help="Its name; the data folder's by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator of defects on normal and defective images."""
    with _said_plainly("Stopped. The same command with --resume goes on from the last checkpoint."):
        import jax

        from train.commands import check_defect_data, choose_config, choose_generator, resolve
        from train.config import config_digest
        from train.data.defects import open_defects
        from train.generators.fit import fit_generator as fit

        system = choose_generator(generator)
        path = choose_config(system, config, out if resume else None)
        resolved = resolve(system, path, settings)
        defects = open_defects(data, defects_per_type=defects_per_type, seed=seed)
        _say(
            f"{generator} with {path} (digest {config_digest(resolved)}) on {jax.default_backend()}, "
            f"{len(defects.normal)} normal and {len(defects.defective)} defective images"
        )
        check_defect_data(defects, _say)
        fit(system, resolved, defects, out, product=product or data.resolve().stem, resume=resume)
        if as_json:
            _print_json({"run": str(out), "pictures": str(out / "pictures")})
        else:
            _say(f"Trained: {out}. Look at {out / 'pictures'} and {out / 'report.html'} first.")
            _say(f"Next: python -m train synthesize {out} --data {data} --out defects --count 100")


@app.command(epilog="Example: python -m train unpack cifar10 cifar-10-batches-bin --out cifar10")
def unpack(
    benchmark: Annotated[str, typer.Argument(help="cifar10 or mnist", show_default=False)],
    folder: Annotated[
        Path,
        typer.Argument(help="CIFAR-10: its batches, binary or Python version. MNIST: IDX files.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of ten categories to write.", show_default=False)],
) -> None:
    """Write CIFAR-10 or MNIST as images, in ten categories: one class good, the nine others anomalies."""
    with _said_plainly("Stopped. The same command goes on, and keeps what is written."):
        from train.config import ConfigError
        from train.data.cifar10 import unpack_cifar10
        from train.data.mnist import unpack_mnist
        from train.progress import Work

        if benchmark not in {"cifar10", "mnist"}:
            raise ConfigError(f"{benchmark} needs no unpacking, or isn't known. There are cifar10 and mnist.")
        with Work("unpacking", 1) as work:
            unpacked = unpack_cifar10 if benchmark == "cifar10" else unpack_mnist
            notes = unpacked(folder, out, progress=work.reached)
        for note in notes:
            _say(note)
        system = "aesc" if benchmark == "cifar10" else "anogan --config digits"
        _say(f"Unpacked: {out}. Next: python -m train table {system} --data {out} --out runs/{out.name}")


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


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def _said_plainly(stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed or was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        _say(stopped)
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        from train.commands import explain

        if known := explain(error):
            _say(known[0])
            raise typer.Exit(known[1]) from None
        if os.environ.get("FAULTLINE_LOG", "").lower() == "debug":
            raise
        _say(f"Unexpected: {type(error).__name__}: {error}. FAULTLINE_LOG=debug shows where.")
        raise typer.Exit(1) from None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(app(prog_name="python -m train"))
