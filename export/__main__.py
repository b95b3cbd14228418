"""python -m export: make signing keys, pack a trained run as a bundle, evaluate what ships."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from export.errors import ExportError, InputError
from train.synthesis import options

app = typer.Typer(
    help="Turn a trained run into the bundle that devices run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.command(epilog="Example: python -m export keygen --out keys/line.pem")
def keygen(
    out: Annotated[Path, typer.Option("--out", help="The private key to write; KEY.pub goes beside it.")],
    as_json: AsJson = False,
) -> None:
    """Make a key pair: the private key signs bundles, KEY.pub goes on the devices."""
    with _said_plainly():
        from export.signing import keygen as make_keys

        public = make_keys(out)
        if as_json:
            _print_json({"private_key": str(out), "public_key": str(public)})
        else:
            _say(f"Private key: {out} (keep it on the server). Public key for the devices: {public}")


@app.command(epilog="Example: python -m export bundle runs/bottle --out bundles/bottle --sign keys/line.pem")
def bundle(
    run: Annotated[Path, typer.Argument(help="The run folder of `train fit`.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The bundle folder to write; must not exist.")],
    precision: Annotated[str, typer.Option("--precision", help="Of the graph: fp32, fp16 or int8.")] = "fp32",
    data: Annotated[
        Path | None, typer.Option("--data", help="What the run was trained on; int8 finds its ranges there.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Private key of `export keygen`.")] = None,
    version: Annotated[int, typer.Option("--version", help="Rises per product; devices refuse older ones.")] = 1,
    name: Annotated[str | None, typer.Option("--name", metavar="PRODUCT", help="By default the run's product.")] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting of the scoring; repeatable.")
    ] = [],  # noqa: B006  typer reads it, nobody writes it
    as_json: AsJson = False,
) -> None:
    """Pack a run: ONNX model, thresholds, golden set, manifest. Refused where ONNX Runtime and JAX disagree."""
    with _said_plainly():
        from export.pack import check_request, pack
        from export.signing import read_private_key
        from train.progress import Work
        from train.run import open_run

        check_request(out, precision, version, calibrated=data is not None)
        key = read_private_key(sign) if sign is not None else None
        trained = open_run(run, settings)
        calibration = None
        if data is not None:
            from export.precision.calibration import calibration_images
            from train.data.folder import open_dataset

            calibration = calibration_images(trained, open_dataset(data))
        with Work("scoring the golden set", 1) as work:
            packed = pack(
                trained,
                out,
                precision=precision,
                calibration=calibration,
                key=key,
                version=version,
                name=name,
                on_progress=work.reached,
            )
        manifest, parity = packed.bundle.manifest, packed.parity
        loss = manifest.precision_loss
        if as_json:
            _print_json(
                {
                    "bundle": str(out),
                    "digest": packed.bundle.digest,
                    "name": manifest.name,
                    "version": manifest.version,
                    "precision": manifest.precision,
                    "signed": packed.is_signed,
                    "nodes": packed.nodes,
                    "measured": manifest.measured,
                    "precision_loss": loss.model_dump() if loss is not None else None,
                }
            )
            return
        _say(
            f"{manifest.name}, version {manifest.version}, {manifest.precision}: {packed.nodes} nodes. ONNX Runtime "
            f"against JAX: map error {parity.map_error:.1e} of the range, score error {parity.score_error:.1e}, "
            f"{parity.verdict_flips} verdicts flipped."
        )
        if loss is not None:
            _say(
                f"Against float32, on {loss.n_good} held-out good images and {loss.n_stained} stained: image AUROC "
                f"{loss.image_auroc:.4f} instead of {loss.image_auroc_float32:.4f}, {loss.verdict_flips} verdicts "
                f"flipped, map error {loss.map_error:.1e}; {len(loss.given_back)} nodes given back to float32, of "
                f"{loss.layers} layers."
            )
        _say(f"Bundle: {out}   digest {packed.bundle.digest}   {'signed' if packed.is_signed else 'unsigned'}")
        _say(f"Next: python -m edge_agent score {out} IMAGE")


@app.command(epilog="Example: python -m export graphs runs/bottle --out graphs/bottle")
def graphs(
    run: Annotated[Path, typer.Argument(help="A run of anogan, or of a generator.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's networks as ONNX graphs of their own, for a server: of AnoGAN also one step of its search."""
    with _said_plainly():
        from export.graphs import open_detector_or_generator, write_graphs

        written = write_graphs(open_detector_or_generator(run), out)
        if as_json:
            _print_json([network.model_dump() for network in written])
            return
        for network in written:
            _say(f"{out / network.file}: {network.nodes} nodes, {network.error:.1e} from JAX in ONNX Runtime")


@app.command(
    epilog="Example: python -m export synthesize runs/bottle --data bottle --out drawn --count 200 --engine onnxruntime"
)
def synthesize(
    run: options.Run,
    data: options.Backgrounds,
    out: options.Out,
    engine: options.Engine,
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
    as_json: AsJson = False,
) -> None:
    """Draw as `python -m train synthesize` does, on an engine: the same job, the same files (docs/synthesis.md)."""
    with _said_plainly("Stopped. What is written is whole; the same command goes on."):
        from export.graph_engines import KINDS
        from export.paint import EnginePainter
        from train.generators.run import open_generator
        from train.synthesis.command import as_json as summary_as_json
        from train.synthesis.command import conclude, run_job

        if engine not in KINDS:
            raise InputError(f"--engine {engine} is not known. There are jax, {', '.join(KINDS)}.")
        painter = EnginePainter(open_generator(run), engine)
        try:
            summary = run_job(
                painter,
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
        finally:
            painter.close()
        if as_json:
            _print_json(summary_as_json(summary, out))
        if not conclude(summary, out, restored=restore, say=_say):
            raise typer.Exit(1)


@app.command(epilog="Example: python -m export evaluate bundles/bottle --data bottle --out metrics.json")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.", show_default=False)],
    data: Annotated[Path, typer.Option("--data", help="Folder of images (docs/data.md) or a .csv table.")],
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder, for held-out images where FOLDER has no defects.")
    ] = None,
    generator: Annotated[
        list[Path],
        typer.Option(
            "--generator",
            metavar="FOLDER",
            help="A generator's run, or what it drew: images that it was trained on are left out. Repeatable.",
        ),
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge what ships: the metrics of `train evaluate`, of the bundle, through the agent's engine."""
    with _said_plainly():
        from edge_agent.bundle import open_bundle
        from export.evaluate import evaluate_bundle
        from train.data.folder import open_dataset
        from train.data.left_out import leave_out, splits_of
        from train.evaluate import write_metrics
        from train.progress import Work
        from train.run import held_out_with_stains, open_run

        opened = open_bundle(folder)
        known = leave_out(open_dataset(data), splits_of(run, generator))
        dataset = known.dataset
        if known.left_out:
            _say(known.sentence())
        defective = any(not sample.is_good for sample in dataset.test)
        held_out = held_out_with_stains(open_run(run)) if run is not None and not defective else None
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: the folder {out.parent} does not exist. Make it, or name another file.")
        with Work("scoring", len(dataset.test)) as work:
            metrics = evaluate_bundle(opened, dataset, held_out=held_out, on_progress=work.reached)
        if known.left_out:
            metrics["left_out"] = {"n": len(known.left_out), "why": known.sentence()}
        write_metrics(out, metrics)
        if as_json:
            typer.echo(out.read_text(), nl=False)
        else:
            _say(f"Metrics of {folder} ({opened.digest[:12]}): {out}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def _said_plainly(stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except OSError as error:
        _say(f"{error.filename or 'A file'} can't be used: {error.strerror or error}.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say(stopped)
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        _say(str(error))
        raise typer.Exit(code) from None


def _exit_code(error: Exception) -> int | None:
    """2: the user's input; 1: the work; None: a fault of this program. Imports late, for `keygen` needs no JAX."""
    if isinstance(error, InputError):
        return 2
    if isinstance(error, ExportError):
        return 1
    from edge_agent.bundle import BundleError
    from edge_agent.engines import EngineError
    from edge_agent.preprocess import ImageError
    from export.lower import LoweringError
    from train.config import ConfigError
    from train.data.folder import DataError
    from train.evaluate import EvaluationError
    from train.fit_threshold import ThresholdError
    from train.run import RunError
    from train.synthesis.errors import SynthesisError

    if isinstance(error, BundleError | ConfigError | DataError | ImageError | RunError):
        return 2
    return (
        1
        if isinstance(error, LoweringError | EngineError | EvaluationError | SynthesisError | ThresholdError)
        else None
    )


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m export"))
