"""What the verbs share: words that several take, and how they speak: sentences on standard error, JSON on output."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

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
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def say(line: str) -> None:
    typer.echo(line, err=True)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def said_plainly(stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed or was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        say(stopped)
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
