"""The whole way, on one machine: images of good parts -> detector -> bundle -> agent -> verdicts on MQTT.

    make demo [DATA=folder] [OUT=folder] [DETECTOR=fastflow [WEIGHTS=file]]
    python examples/demo.py [--data FOLDER] [--out FOLDER] [--detector fastflow [--backbone-weights FILE]]

Every step is a command that a user would type; each is shown before it runs.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer
from belt import HELD_OUT, MOST, fill_belt
from embedded_broker import BrokerFailed, EmbeddedBroker
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from witness import Witness, WitnessFailed

COLOURS = {"pass": "green", "reject": "bold red", "unknown": "bold yellow"}
GOOD_PARTS = 100  # drawn to train on: a quarter is held out, enough for a threshold that is no guess
STEP_STOP_S = 20.0  # a step that is told to stop finishes what it compiles first
LAST_VERDICTS_S = 5.0  # on their way from the broker when the agent has ended

AGENT = """\
# Written by the demo. configs/agent/line.yaml explains every setting; paths start at this file's folder.
device: demo
bundle: bundle
public_key: keys/demo.pem.pub # of the key that signed the bundle
topic: {{site: site, line: line, station: station}}
cameras:
  camera:
    kind: folder
    path: parts
    interval_s: 0.1 # the line's cycle time
mqtt: # the demo's own broker, which ends with it; on your line: your broker's host and port
  host: 127.0.0.1
  port: {port}
anomaly_maps:
  folder: rejects
"""

console = Console(highlight=False, soft_wrap=True)
say = console.print


class StepFailed(RuntimeError):
    """A command ended with an exit code other than 0. It has said why itself, unless a text is given."""

    def __init__(self, code: int, text: str = ""):
        super().__init__(text)
        self.code = code if code in (1, 2) else 1


class Steps:
    """Headings and commands, with the time they took."""

    def __init__(self, total: int):
        self._total, self._number, self._started = total, 0, time.monotonic()

    def begin(self, what: str) -> None:
        self._number += 1
        say(f"\n[bold cyan]{self._number}/{self._total}  {escape(what)}[/]  [dim]at {self.elapsed}[/]")

    def command(self, *arguments: str | Path) -> None:
        """Runs `python ARGUMENTS`, its output on this terminal. Raises StepFailed."""
        show_command(arguments)
        with running([sys.executable, *map(str, arguments)]) as process:
            code = process.wait()
        if code:
            raise StepFailed(code)

    @property
    def elapsed(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def main(
    data: Annotated[
        Path | None, typer.Option("--data", help="Images in a layout of docs/data.md; without, parts are drawn.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where all results go.")] = Path("demo"),
    config: Annotated[str, typer.Option("--config", help="NAME of configs/DETECTOR/, or a file.")] = "demo",
    detector: Annotated[str, typer.Option("--detector", help="aesc or fastflow.")] = "aesc",
    backbone_weights: Annotated[
        Path | None, typer.Option(help="Published ResNet18 weights for FastFlow, instead of a small random backbone.")
    ] = None,
    count: Annotated[int, typer.Option("--count", help="Good parts to draw.", min=8)] = GOOD_PARTS,
) -> None:
    """Train, export and run the agent on a replayed line; one line per part, as received over MQTT.

    Exit code 0: every part's verdict arrived. 1: something failed. 2: the images or the settings can't be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        demo(data, _fresh(out), _recipe(detector, config, backbone_weights), count)
    except KeyboardInterrupt:
        say("\n[yellow]Stopped.[/]")
        raise typer.Exit(1) from None
    except StepFailed as error:
        say(f"\n[red]{escape(str(error)) or 'That step failed; the lines above say why.'}[/]")
        raise typer.Exit(error.code) from None
    except (BrokerFailed, WitnessFailed, OSError) as error:
        say(f"\n[red]{escape(str(error))}[/]")
        raise typer.Exit(1) from None


def _recipe(detector: str, config: str, backbone_weights: Path | None) -> list[str]:
    """What `fit` is told besides the data: the detector, its config, a backbone that has seen photographs."""
    recipe = [detector, "--config", config]
    if backbone_weights is not None:
        recipe += ["--set", "backbone=resnet18", "--set", f"backbone_weights={backbone_weights}"]
    return recipe


def demo(data: Path | None, out: Path, recipe: list[str], count: int) -> None:
    steps = Steps(5 if data is None else 4)
    product = "flange" if data is None else data.resolve().stem
    run, bundle, key = out / "run", out / "bundle", out / "keys" / "demo.pem"
    if data is None:
        data = out / "line"
        steps.begin("Draw a product line: good parts to learn from, good and defective ones to judge")
        steps.command("-m", "train", "draw", "--out", data, "--count", str(count))

    steps.begin("Train a detector on the good parts")
    steps.command("-m", "train", "fit", *recipe, "--data", data, "--out", run, "--product", product)

    steps.begin("Evaluate it")
    steps.command("-m", "train", "evaluate", run, "--data", data)

    steps.begin("Export it as a signed bundle, the folder that devices run")
    steps.command("-m", "export", "keygen", "--out", key)
    steps.command("-m", "export", "bundle", run, "--out", bundle, "--sign", key)

    steps.begin("Run the agent on a replayed line; a subscriber prints what arrives over MQTT")
    known = _place_parts(out / "parts", data, run)
    results = replay(out, known)
    sum_up(results, known)
    say("")
    _what_next(out, data, results)
    say(f"\nTotal time: {steps.elapsed}")


def replay(out: Path, known: dict[str, str]) -> list[dict[str, Any]]:
    """Runs broker, subscriber and agent; prints and returns the verdicts. Raises StepFailed where one is missing."""
    results: list[dict[str, Any]] = []
    log = out / "agent.log"
    with (
        EmbeddedBroker() as broker,
        Witness(broker.port, "faultline/v1/+/+/+/+/result") as witness,
        log.open("w") as agent_output,
        (out / "verdicts.jsonl").open("w") as verdicts,
    ):
        (out / "agent.yaml").write_text(AGENT.format(port=broker.port))
        arguments = ("-m", "edge_agent", "run", "--config", out / "agent.yaml")
        show_command(arguments)
        say(f"[dim]broker on 127.0.0.1:{broker.port}; the agent's own words go to {escape(str(log))}[/]\n")
        with running([sys.executable, *map(str, arguments)], output=agent_output) as agent:
            for result in _arriving(witness, agent, len(known)):
                if not results:
                    say(f"[dim]{'id':<26}{'verdict':<9}{'score':>7}  {'latency':>9}  part[/]")
                results.append(result)
                verdicts.write(json.dumps(result) + "\n")
                _print_verdict(result)
            code = agent.wait()
    if code:
        raise StepFailed(code, f"The agent ended with exit code {code}: {_last_line(log)}")
    if missing := len(known) - len(results):
        raise StepFailed(1, f"{missing} of {len(known)} verdicts did not arrive. {log} is what the agent said.")
    return results


def _arriving(witness: Witness, agent: subprocess.Popen[bytes], count: int) -> Iterator[dict[str, Any]]:
    """Verdicts as they arrive, until all are there, or the agent has ended and no more come."""
    quiet_since = time.monotonic()
    arrived = 0
    while arrived < count:
        try:
            yield witness.results.get(timeout=0.2)
            arrived, quiet_since = arrived + 1, time.monotonic()
        except Empty:
            if agent.poll() is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > LAST_VERDICTS_S:
                return


def sum_up(results: list[dict[str, Any]], known: dict[str, str]) -> None:
    """A table: what was known of the parts against what the agent said."""
    counts = Counter((known[result["part"]], result["verdict"]) for result in results)
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("what they are")
    for verdict, colour in COLOURS.items():
        table.add_column(verdict, justify="right", style=colour.split()[-1])
    labels = sorted(set(known.values()), key=lambda label: (label not in ("good", HELD_OUT), label))
    for label in labels:
        table.add_row(escape(label), *(str(counts[label, verdict] or "·") for verdict in COLOURS))
    table.add_row("all", *(str(sum(counts[label, verdict] for label in labels)) for verdict in COLOURS), style="bold")
    say(f"\n{len(results)} parts, one verdict each:\n")
    say(table)
    if HELD_OUT in labels:
        say(
            "\nYour folder holds good parts only. held_out: those that training did not see; the threshold was fitted\n"
            "on them, so nearly all must pass. stained: the same ones, a stain drawn on each. No real defect was there."
        )


def _what_next(out: Path, data: Path, results: list[dict[str, Any]]) -> None:
    rejects = sum(result["verdict"] == "reject" for result in results)
    for what, path, words in (
        ("Report", out / "run" / "report.html", "open it in a browser"),
        ("Pictures", out / "rejects", f"anomaly maps of the {rejects} rejects"),
        ("Bundle", out / "bundle", f"signed; its public key is {out / 'keys' / 'demo.pem.pub'}"),
        ("Verdicts", out / "verdicts.jsonl", "as received; docs/messages.md explains them"),
    ):
        say(f"[bold]{what:<10}[/]{escape(str(path)):<24}  [dim]{escape(words)}[/]")
    bundle, agent, folder = (shlex.quote(str(path)) for path in (out / "bundle", out / "agent.yaml", data))
    say("\n[bold]Next[/]")
    for command, what in (
        ("source .venv/bin/activate", "this project's Python"),
        (f"python -m edge_agent score {bundle} IMAGE --save maps", "one look at a part of yours, no broker"),
        ("make demo DATA=FOLDER", "all of this on your own images"),
        (
            f"python -m train fit aesc --data {folder} --out runs/full",
            "the full size, 256 px: up to 20 min on 2 cores",
        ),
        (f"python -m edge_agent check {agent}", "after you have put your broker into it; then: run"),
    ):
        say(f"  [cyan]{escape(command)}[/]\n      [dim]{escape(what)}[/]")


def _place_parts(folder: Path, data: Path, run: Path) -> dict[str, str]:
    from train.data.folder import open_dataset

    dataset = open_dataset(data)
    known = fill_belt(folder, dataset, run)
    what = "test images" if dataset.test else "held-out good images, and the same with a stain drawn on each"
    limit = f" (of {len(dataset.test)})" if len(dataset.test) > MOST else ""
    say(f"[dim]{len(known)} parts{limit}: copies of {what}, in mixed order, in {escape(str(folder))}.[/]")
    say("[dim]A name tells what the part is; the agent sees the pixels only.[/]")
    return known


def _print_verdict(result: dict[str, Any]) -> None:
    score = "-" if result["image_score"] is None else f"{result['image_score']:.3f}"
    verdict = result["verdict"]
    why = f"  {result['detail'] or result['reason']}" if verdict == "unknown" else ""
    say(
        f"{result['result_id']:<26}[{COLOURS[verdict]}]{verdict:<9}[/]{score:>7}  {result['latency_ms']:>6.1f} ms  "
        f"{escape(result['part'] + why)}"
    )


def show_command(arguments: tuple[str | Path, ...]) -> None:
    say(f"[dim]$ python {escape(shlex.join(map(str, arguments)))}[/]")


@contextmanager
def running(command: list[str], output: TextIO | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own: Ctrl-C reaches this program alone, which stops the child once, and waits."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output and subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STEP_STOP_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
                process.wait()


def _fresh(out: Path) -> Path:
    """`out`, or where that holds something already, a numbered neighbour: nothing is overwritten."""
    fresh, number = out, 1
    while fresh.is_file() or (fresh.is_dir() and any(fresh.iterdir())):
        number += 1
        fresh = out.with_name(f"{out.name}-{number}")
    if fresh != out:
        say(f"{escape(str(out))} holds something already and is left alone; this demo goes to {escape(str(fresh))}.")
    return fresh


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"it said nothing; {log} is empty."


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
