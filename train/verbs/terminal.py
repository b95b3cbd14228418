"""What the verbs share: words that several take, how they speak (sentences on standard error, JSON on output), how they
are stopped.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

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
AGAIN_S = 0.05  # until a stop that was lost is asked for again

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def say(line: str) -> None:
    typer.echo(line, err=True)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def stop_on_signals() -> None:
    """SIGTERM as Ctrl-C. One that comes while a destructor or a callback of the garbage collector runs is not lost.

    Python drops what is raised there, so it is asked for again; the callbacks of JAX run there.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _not_lost


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _not_lost(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(unraisable)


def stopped_training(out: Path) -> Callable[[], str]:
    """What to say of a training into the folder `out` that was stopped."""

    def sentence() -> str:
        if not (out / "config.yaml").exists():
            return "Stopped; nothing was written."
        from train.checkpoint import has_checkpoint

        if has_checkpoint(out / "checkpoints"):
            return "Stopped. The same command with --resume goes on from the last checkpoint."
        return "Stopped before the first checkpoint. The same command with --resume starts it anew."

    return sentence


@contextmanager
def said_plainly(stopped: str | Callable[[], str] = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed or was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        say(stopped if isinstance(stopped, str) else stopped())
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        from train.commands import explain

        if known := explain(error):
            say(known[0])
            raise typer.Exit(known[1]) from None
        if os.environ.get("FAULTLINE_LOG", "").lower() == "debug":
            raise
        say(f"Unexpected: {type(error).__name__}: {error}. FAULTLINE_LOG=debug shows where.")
        raise typer.Exit(1) from None
