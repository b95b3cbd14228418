"""A process of our own that runs one function, and ends when its parent does, however that one ends.

Not `multiprocessing`: its spawn runs the parent's main module again, and its shared memory has a name and a tracker, a
third process that may outlive both. Here the function travels by name and its arguments as JSON.
"""

import fcntl
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

LIFE = "FAULTLINE_LIFE"  # in the child's environment: a pipe on which nothing is written; the parent holds its end
FAULTS = {
    "SIGKILL": "; where nobody did that, the system had run out of memory",
    "SIGSEGV": ", a fault in native code",
    "SIGBUS": ", a fault in native code",
    "SIGABRT": ", which native code does to itself",
}


class Process:
    """A module's `function(**arguments)`, arguments of JSON, in a new interpreter; `fds` keep their numbers there.

    What it prints goes to our stderr: stdout belongs to the verdicts. It ignores SIGINT and SIGTERM, which a terminal
    or systemd sends to the whole group: the parent decides when it ends. OSError where it can't be started.
    """

    def __init__(self, function: Callable[..., None], arguments: Mapping[str, Any], *, fds: Iterable[int] = ()):
        life, self._life = os.pipe()
        spec = json.dumps({"function": name_of(function), "arguments": dict(arguments)})
        # the working folder is the empty entry, as `python -m` has it
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "edge_agent.engines.process", spec],
                stdin=subprocess.DEVNULL, stdout=2, pass_fds=(life, *fds),
                env={**os.environ, "PYTHONPATH": path, LIFE: str(life)},
            )  # fmt: skip
        except OSError:
            os.close(self._life)
            raise
        finally:
            os.close(life)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def ending(self) -> str:
        """How it ended: `was killed by SIGKILL`, say."""
        status = self._popen.poll()
        if status is None:
            return "has not ended"
        if status >= 0:
            return f"ended with exit code {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"was killed by {name}{FAULTS.get(name, '')}"

    def kill(self) -> None:
        self._popen.kill()

    def end(self, wait_s: float = 0.0) -> str:
        """Give it so long to end by itself, then kill it. `ending`."""
        try:
            self._popen.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        return self.ending


def name_of(function: Callable[..., Any]) -> str:
    """`module:function`, by which another process finds it."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function_of(name) is not function:
        raise ValueError(f"{name} is no function of a module, so no other process can find it.")
    return name


def function_of(name: str) -> Any:
    """What `name_of` named."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute, None)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the pipe of life ends. No thread has to run for it: an engine may hang."""
    life = int(os.environ.pop(LIFE))
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    if hasattr(fcntl, "F_SETSIG"):  # elsewhere it is SIGIO, which ends a process too
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # it ended before we asked
        os._exit(1)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    spec = json.loads(sys.argv[1])
    function_of(spec["function"])(**spec["arguments"])


if __name__ == "__main__":
    main()
