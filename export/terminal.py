"""How the verbs of export fail: errors as sentences with an exit code, SIGTERM as Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from export.errors import ExportError, InputError
from train.verbs.terminal import say, stop_on_signals


@contextmanager
def said_plainly(stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """Errors as sentences: exit code 2 where the user's input is wrong, 1 where the work failed."""
    stop_on_signals()
    try:
        yield
    except OSError as error:
        say(f"{error.filename or 'A file'} can't be used: {error.strerror or error}.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say(stopped)
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        say(str(error))
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
