"""python -m edge_agent: run, score, record, check, build."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from edge_agent.agent import Summary
from edge_agent.agent import run as run_agent
from edge_agent.bundle import BundleError
from edge_agent.cameras import CameraError
from edge_agent.check import check as check_target
from edge_agent.config import ConfigError, read_config
from edge_agent.engines import EngineError
from edge_agent.messages import Result, encode
from edge_agent.offline import InputError, open_source, record_frames, score_images
from edge_agent.outbox import OutboxError
from edge_agent.pictures import PictureError
from edge_agent.stages import StageError

app = typer.Typer(
    name="edge_agent",
    help="The agent on the line: judges every part with a bundle and publishes the verdicts on MQTT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS = {"pass": "green", "reject": "bold red", "unknown": "bold yellow"}
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The agent's YAML file; configs/agent/line.yaml shows all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, for scripts.")]


@app.command(epilog="Example: python -m edge_agent run --config agent.yaml")
def run(
    config: ConfigOption = Path("agent.yaml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge and print; store and publish nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge every part of the camera, publish the verdicts, lose none.

    Ctrl-C or SIGTERM stops cleanly; verdicts the broker hasn't acknowledged stay in the outbox for the next start.
    Exit code 0: all delivered, or stopped. 1: something broke, or verdicts are left in the outbox. 2: wrong input.
    """
    with _sentences():
        summary = run_agent(read_config(config), _print_json if as_json else _print_part, dry_run=dry_run)
        raise typer.Exit(_sum_up(summary, dry_run=dry_run))


@app.command(epilog="Example: python -m edge_agent score bundles/bottle parts/ --save maps/")
def score(
    bundle: Annotated[Path, typer.Argument(help="The folder that `export bundle` wrote.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    save: Annotated[Path | None, typer.Option("--save", help="Write a picture of each anomaly map here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One look, no broker: score, verdict and anomaly map of an image or a folder.

    Exit code 0: every image was judged, whatever the verdict. 1: one could not be (unknown). 2: wrong input.
    """
    with _sentences():
        unknown = 0
        for looked in score_images(bundle, images, save):
            unknown += looked.decision.verdict == "unknown"
            if as_json:
                print(json.dumps(looked.as_json()))
            else:
                score = None if looked.image_score is None else shown_score(looked.image_score, 1.0)
                _print_line(looked.name, looked.decision.verdict, score, looked.detail or looked.decision.reason)
        raise typer.Exit(1 if unknown else 0)


@app.command(epilog="Example: python -m edge_agent record --config agent.yaml --count 100 --out good/")
def record(
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures.")],
    folder: Annotated[Path, typer.Option("--out", help="A new or empty folder; nothing is overwritten.")],
    config: ConfigOption = Path("agent.yaml"),
    camera: Annotated[
        Path | None, typer.Option("--camera", help="A folder or video file instead of a config's camera.")
    ] = None,
) -> None:
    """Training images from the line's own camera, whole and lossless, as PNG.

    Exit code 0: all recorded. 1: the camera gave fewer. 2: wrong input.
    """
    with _sentences():
        source = open_source(config, camera)
        recorded = record_frames(source, folder, count, problem=lambda text: err.print(escape(text), style="yellow"))
        out.print(f"{recorded} of {count} pictures recorded in {escape(str(folder))}.")
        if recorded < count:
            err.print("The camera ended before. Give it more parts, or a smaller --count.", style="red")
        raise typer.Exit(0 if recorded == count else 1)


@app.command(epilog="Example: python -m edge_agent check agent.yaml")
def check(
    target: Annotated[Path, typer.Argument(help="An agent's YAML file, or a bundle's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong and where; change nothing.

    A configuration: its settings, bundle, golden set on this device, camera, outbox, broker. A bundle: its files and
    golden set. Exit code 0: all fine. 1: something failed. 2: what was given is wrong.
    """
    worst = 0
    with _sentences():
        for finding in check_target(target):
            worst = max(worst, finding.exit_code)
            if as_json:
                fields = {"subject": finding.subject, "ok": finding.exit_code == 0, "text": finding.text}
                print(json.dumps({**fields, "exit_code": finding.exit_code}), flush=True)
                continue
            mark = "[red]problem[/]" if finding.exit_code else "[green]ok     [/]"
            out.print(f"{mark}  {escape(finding.subject)}: {escape(finding.text)}")
    raise typer.Exit(worst)


@app.command(epilog="Example: python -m edge_agent build bundles/bottle --cache engines/")
def build(
    bundle: Annotated[Path, typer.Argument(help="The folder that `export bundle` wrote.")],
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where engine files are kept; the agent's engine.cache.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="tensorrt or tensorrt_rtx; by default the one that is installed.")
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", help="The largest batch, or the one to be fastest at and the largest: 1,32.")
    ] = "1",
    workspace_mib: Annotated[
        int | None, typer.Option("--workspace-mib", min=1, help="Limit of the builder's memory; by default all.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option("--optimization-level", help="0 (fast build) to 5 (fast engine); TensorRT's own is 3.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Allow float32 products with 10 bits; the golden set decides.")
    ] = False,
    device: Annotated[int, typer.Option("--device", min=0, help="Number of the GPU.")] = 0,
    target: Annotated[
        str | None, typer.Option("--target", help="Ahead of time, with no GPU: sm86, sm89, sm120 (TensorRT-RTX only).")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Also where the cache has it.")] = False,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="Refuse a bundle that this key hasn't signed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a bundle's TensorRT engine for this device, and hold it to the golden set.

    Takes minutes on a Jetson; a line that runs meanwhile goes on with the engine it has. Exit code 0: built and proved
    (with --target: built). 1: it can't be built, or disagrees with the golden set. 2: wrong input.
    """
    from edge_agent import build as verb

    with _sentences():
        built = verb.build(
            bundle,
            cache=cache,
            engine=engine,
            batch=batch,
            workspace_mib=workspace_mib,
            optimization_level=optimization_level,
            allow_tf32=tf32,
            device=device,
            target=target,
            rebuild=rebuild,
            public_key=public_key,
        )
        if as_json:
            print(json.dumps(verb.as_json(built)))
        else:
            for sentence in verb.as_sentences(built):
                out.print(escape(sentence))


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors as sentences with their exit code; no traceback reaches the user."""
    try:
        yield
    except (ConfigError, BundleError, CameraError, InputError) as error:
        raise _fail(error, 2) from None
    except (EngineError, OutboxError, PictureError, StageError) as error:
        raise _fail(error, 1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise _fail("Interrupted.", 1) from None


def _fail(error: object, code: int) -> typer.Exit:
    err.print(escape(str(error)), style="red")
    return typer.Exit(code)


def _print_json(result: Result) -> None:
    with _closed_output_is_no_failure():
        print(encode(result).decode(), flush=True)


def _print_part(result: Result) -> None:
    with _closed_output_is_no_failure():
        why = ": ".join(each for each in (result.reason, result.detail) if each)
        name = result.part or result.trigger_id or f"part {result.sequence}"
        score = None if result.image_score is None else shown_score(result.image_score, result.threshold)
        _print_line(name, result.verdict, score, why, latency_ms=result.latency_ms)


@contextmanager
def _closed_output_is_no_failure() -> Iterator[None]:
    """Verdicts go on when nobody reads the console any more."""
    try:
        yield
    except (OSError, ValueError):
        return


def shown_score(score: float, threshold: float) -> str:
    """Three places, or more where rounding would move it to the other side of the threshold."""
    return next(
        (text for n in range(3, 12) if (float(text := f"{score:7.{n}f}") > threshold) == (score > threshold)),
        repr(float(score)),
    )


def _print_line(
    name: str, verdict: str, image_score: str | None, why: str | None, *, latency_ms: float | None = None
) -> None:
    number = image_score or "      -"
    latency = "" if latency_ms is None else f"  {latency_ms:7.1f} ms"
    reason = f"  {why}" if verdict == "unknown" and why else ""
    if out.is_terminal:
        colour = COLOURS[verdict]
        out.print(f"{escape(name)}  [{colour}]{verdict:7}[/]  score {number}{latency}{escape(reason)}")
    else:
        print(f"{name}  {verdict:7}  score {number}{latency}{reason}", flush=True)


def _sum_up(summary: Summary, *, dry_run: bool) -> int:
    counts = summary.tally.verdicts
    parts = (
        f"{summary.tally.parts} parts: {counts['pass']} pass, {counts['reject']} reject, {counts['unknown']} unknown."
    )
    if dry_run:
        err.print(f"{parts} Dry run: nothing was stored or published.")
        return 0
    err.print(f"{parts} {summary.delivered} verdicts delivered, {summary.left} messages left in the outbox.")
    if not summary.left:
        return 0
    stay = "They stay there and will be sent at the next start."
    if summary.interrupted:
        err.print(stay)
        return 0
    err.print(f"{stay} {escape(summary.broker)}", style="red")
    return 1


def main(arguments: list[str] | None = None) -> Any:
    logging.basicConfig(
        level=os.environ.get("FAULTLINE_LOG", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        return app(arguments, prog_name="python -m edge_agent")
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        err.print(
            f"Unexpected: {escape(f'{type(error).__name__}: {error}')}. FAULTLINE_LOG=debug says more.", style="red"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
