"""An engine file built beside the line: in a process of its own, at the lowest priority, killed before the agent is."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.engines import EngineError
from edge_agent.engines.child import Candidate
from edge_agent.engines.process import Process, function_of, name_of

NICENESS = 19
FIRST_TO_KILL = 900  # of 1000, to the kernel that is short of memory: better the build than the agent

OnProgress = Callable[[str, float], None]  # what it is doing, and how much of the whole is done (0 to 1)
Builder = Callable[[Bundle, Candidate, OnProgress], None]  # a function of a module: the process finds it by its name


def build_candidate(bundle: Bundle, candidate: Candidate, on_progress: OnProgress) -> None:
    """Build and cache the engine file of a candidate, in this process."""
    from edge_agent.engines.tensorrt import DEFAULT_CACHE, build_engine

    if candidate.kind not in ("tensorrt", "tensorrt_rtx"):
        raise EngineError(f"{candidate} needs no engine file. Only tensorrt and tensorrt_rtx are built.")
    cache = DEFAULT_CACHE if candidate.cache is None else Path(candidate.cache)
    build_engine(bundle, flavour=candidate.kind, cache=cache, device=candidate.device, on_progress=on_progress)


def build_beside(
    bundle: Bundle,
    candidate: Candidate,
    *,
    builder: Builder = build_candidate,
    on_progress: OnProgress = lambda stage, fraction: None,
    cancelled: threading.Event | None = None,
) -> None:
    """Run `builder` in a process of its own until it has ended. EngineError with its sentence where it failed or died.

    cancelled: where it becomes set, the build is killed; what it had not finished, the cache does not have.
    """
    cancelled = cancelled or threading.Event()
    ours, theirs = Pipe(duplex=False)
    try:
        process = Process(
            build,
            {
                "pipe": theirs.fileno(), "bundle": str(bundle.folder.absolute()), "digest": bundle.digest,
                "candidate": asdict(candidate), "builder": name_of(builder),
            },
            fds=(theirs.fileno(),),
        )  # fmt: skip
    except OSError as error:
        ours.close()
        raise EngineError(f"The build of {candidate} can't be started ({error.strerror}). Free memory here.") from error
    finally:
        theirs.close()
    try:
        while True:
            while not ours.poll(0.1):
                if cancelled.is_set():
                    raise EngineError(f"The build of {candidate} was given up: the agent stops.")
            said: dict[str, Any] = json.loads(ours.recv_bytes())
            if "error" in said:
                raise EngineError(f"The build of {candidate} failed: {said['error']}")
            if "stage" not in said:
                return
            on_progress(said["stage"], said["fraction"])
    except (EOFError, OSError):
        raise EngineError(
            f"The build of {candidate} broke off: its process {process.end(1.0)}. Build it when the line stands still: "
            "python -m edge_agent build"
        ) from None
    finally:
        process.end(0.0 if cancelled.is_set() else 1.0)
        ours.close()


def build(pipe: int, bundle: str, digest: str, candidate: dict[str, Any], builder: str) -> None:
    """The building process's whole life."""
    connection = Connection(pipe)
    _step_back()

    def on_progress(stage: str, fraction: float) -> None:
        connection.send_bytes(json.dumps({"stage": stage, "fraction": fraction}).encode())

    try:
        opened = open_bundle(Path(bundle))
        if opened.digest != digest:
            raise EngineError(f"{bundle} is not the bundle any more that the agent opened.")
        function_of(builder)(opened, Candidate(**candidate), on_progress)
        said = {"built": str(Candidate(**candidate))}
    except MemoryError:
        said = {"error": "This device has not enough memory to build it. Build it when nothing else runs here."}
    except Exception as error:
        expected = isinstance(error, EngineError | ValueError)
        said = {"error": str(error) if expected else f"{type(error).__name__}: {error}."}
    connection.send_bytes(json.dumps(said).encode())


def _step_back() -> None:
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_KILL))
