"""The verb `build`: a bundle's engine file for this device, with its progress told."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.bundle import open_bundle
from edge_agent.engines.tensorrt import DEFAULT_CACHE, Built, Flavour, build_engine
from edge_agent.engines.tensorrt.api import NAMES, installed_flavour
from edge_agent.engines.tensorrt.build import WrongRequest
from edge_agent.offline import InputError

LINES = 10  # over the whole, where the output is no terminal
REFRESH_S = 0.2  # of the line on a terminal


class Progress:
    """Tells how far a build is and when it will be done; on a terminal in one line that is written over."""

    def __init__(
        self, say: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic, over: bool = False
    ):
        self._say, self._clock, self._over = say, clock, over
        self._started = clock()
        self._told = -1
        self._phase = ""
        self._last = self._started - REFRESH_S

    def __call__(self, phase: str, share: float) -> None:
        reached = int(share * LINES + 1e-9)
        due = reached > self._told or (share == 1.0 and phase != self._phase)
        if not due and not (self._over and self._clock() >= self._last + REFRESH_S):
            return
        self._told, self._phase, self._last = reached, phase, self._clock()
        text = f"{share:4.0%}  {_duration(self._clock() - self._started)}  {phase}"
        if 0.02 < share < 1.0:
            left = (self._clock() - self._started) * (1 - share) / share
            text += f"  (about {_duration(left)} left)"
        self._say(f"\r{text[:110]:110}" if self._over else text)

    def end(self) -> None:
        if self._over:
            self._say("\r" + " " * 110 + "\r")


def build(
    folder: Path,
    *,
    cache: Path | None = None,
    engine: str | None = None,
    batch: str = "1",
    workspace_mib: int | None = None,
    optimization_level: int | None = None,
    allow_tf32: bool = False,
    device: int = 0,
    target: str | None = None,
    rebuild: bool = False,
    public_key: Path | None = None,
) -> Built:
    """Build what `python -m edge_agent build` was asked for; BundleError, InputError or EngineError where it can't."""
    bundle = open_bundle(folder, public_key=public_key)
    flavour = _flavour(engine, target)
    over = sys.stderr.isatty()
    progress = Progress(lambda text: print(text, end="" if over else "\n", file=sys.stderr, flush=True), over=over)
    try:
        return build_engine(
            bundle,
            flavour=flavour,
            cache=cache or DEFAULT_CACHE,
            batch_sizes=read_batch(batch),
            workspace_bytes=None if workspace_mib is None else workspace_mib * 2**20,
            device=device,
            on_progress=progress,
            optimization_level=optimization_level,
            allow_tf32=allow_tf32,
            target=target,
            rebuild=rebuild,
        )
    except WrongRequest as error:
        raise InputError(str(error)) from error
    finally:
        progress.end()


def read_batch(text: str) -> tuple[int, int, int]:
    """ "8": from 1 to 8, fastest at 8. "1,32": from 1 to 32, fastest at 1."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    best, largest = numbers[0], numbers[-1]
    if len(numbers) > 2 or not 1 <= best <= largest:
        raise InputError(
            f"--batch is {text!r}. Give the largest batch (8), or the one to be fastest at and the largest (1,32)."
        )
    return 1, best, largest


def as_json(built: Built) -> dict[str, Any]:
    proof = built.proof
    return {
        "engine": str(built.path),
        "key": built.key,
        "seconds": round(built.seconds, 1),
        "proved": proof is not None,
        "golden": None if proof is None else proof.model_dump(),
        "trtexec": built.trtexec,
    }


def as_sentences(built: Built) -> list[str]:
    proof = built.proof
    if proof is None:
        state = (
            "Built ahead of time: it is not proved on a device, and proves itself on the golden set at its first use."
        )
    else:
        state = (
            f"It agrees with the golden set on this device: {proof.n} images, map error {proof.map_error:.1e}, "
            f"score error {proof.score_error:.1e}, {proof.verdict_flips} verdict flips."
        )
    made = f"built in {built.seconds:.1f} s" if built.seconds else "the cache had it; --rebuild builds it again"
    return [f"{built.path}: {made}. {state}", f"The same with NVIDIA's own tool: {built.trtexec}"]


def _flavour(engine: str | None, target: str | None) -> Flavour:
    if engine is None:
        return "tensorrt_rtx" if target is not None else installed_flavour()
    for flavour in NAMES:
        if engine == flavour:
            return flavour
    raise InputError(f"--engine {engine} needs no building. Give {' or '.join(NAMES)}, or leave it out.")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"
