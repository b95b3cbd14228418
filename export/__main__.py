"""python -m export: make signing keys, pack a trained run as a bundle, evaluate what ships."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from export.errors import InputError
from export.terminal import said_plainly
from train.synthesis.verb import synthesize_verb
from train.synthesis.wishes import Wishes, refuse_wishes
from train.verbs.terminal import AsJson, Generators, print_json, say

app = typer.Typer(
    help="Turn a trained run into the bundle that devices run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command(epilog="Example: python -m export keygen --out keys/line.pem")
def keygen(
    out: Annotated[Path, typer.Option("--out", help="The private key to write; KEY.pub goes beside it.")],
    as_json: AsJson = False,
) -> None:
    """Make a key pair: the private key signs bundles, KEY.pub goes on the devices."""
    with said_plainly():
        from export.signing import keygen as make_keys

        public = make_keys(out)
        if as_json:
            print_json({"private_key": str(out), "public_key": str(public)})
        else:
            say(f"Private key: {out} (keep it on the server). Public key for the devices: {public}")


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
    with said_plainly():
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
            print_json(
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
        say(
            f"{manifest.name}, version {manifest.version}, {manifest.precision}: {packed.nodes} nodes. ONNX Runtime "
            f"against JAX: map error {parity.map_error:.1e} of the range, score error {parity.score_error:.1e}, "
            f"{parity.verdict_flips} verdicts flipped."
        )
        if loss is not None:
            say(
                f"Against float32, on {loss.n_good} held-out good images and {loss.n_stained} stained: image AUROC "
                f"{loss.image_auroc:.4f} instead of {loss.image_auroc_float32:.4f}, {loss.verdict_flips} verdicts "
                f"flipped, map error {loss.map_error:.1e}; {len(loss.given_back)} nodes given back to float32, of "
                f"{loss.layers} layers."
            )
        say(f"Bundle: {out}   digest {packed.bundle.digest}   {'signed' if packed.is_signed else 'unsigned'}")
        say(f"Next: python -m edge_agent score {out} IMAGE")


@app.command(epilog="Example: python -m export graphs runs/bottle --out graphs/bottle")
def graphs(
    run: Annotated[Path, typer.Argument(help="A run of anogan, or of a generator.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's networks as ONNX graphs of their own, for a server: of AnoGAN also one step of its search."""
    with said_plainly():
        from export.graphs import open_detector_or_generator, write_graphs

        written = write_graphs(open_detector_or_generator(run), out)
        if as_json:
            print_json([network.model_dump() for network in written])
            return
        for network in written:
            say(f"{out / network.file}: {network.nodes} nodes, {network.error:.1e} from JAX in ONNX Runtime")


@contextmanager
def _open_painter(run: Path, engine: str, wishes: Wishes) -> Iterator[Any]:
    """A Painter on an engine."""
    from export.graph_engines import KINDS
    from export.paint import BATCH, EnginePainter
    from train.generators.run import open_generator

    if engine not in KINDS:
        raise InputError(f"--engine {engine} is none of the engines. There are {', '.join(KINDS)}.")
    refuse_wishes(replace(wishes, batch=None), "an engine")
    with closing(
        EnginePainter(open_generator(run), engine, batch=BATCH if wishes.batch is None else wishes.batch)
    ) as painter:
        yield painter


synthesize = synthesize_verb(
    "Draw as `python -m train synthesize` does, on an engine: the same job, the same files (docs/synthesis.md).",
    _open_painter,
    said_plainly,
)
app.command(
    epilog="Example: python -m export synthesize runs/bottle --data bottle --out drawn --count 200 --engine onnxruntime"
)(synthesize)


@app.command(epilog="Example: python -m export evaluate bundles/bottle --data bottle --out metrics.json")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.", show_default=False)],
    data: Annotated[Path, typer.Option("--data", help="Folder of images (docs/data.md) or a .csv table.")],
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder, for held-out images where FOLDER has no defects.")
    ] = None,
    generator: Generators = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge what ships: the metrics of `train evaluate`, of the bundle, through the agent's engine."""
    with said_plainly():
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
            say(known.sentence())
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
            say(f"Metrics of {folder} ({opened.digest[:12]}): {out}")


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m export"))
