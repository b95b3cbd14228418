"""Which engine serves: the fastest on this machine of those that pass the golden set."""

import importlib.util
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.bundle import Bundle, read_golden
from edge_agent.engines import EngineError, EngineKind, EngineNotBuilt, Scores
from edge_agent.engines.child import Candidate, ChildEngine, Opener, open_candidate
from edge_agent.engines.golden import GoldenResult, check_golden

WARM_UP = 5  # images
MEASURED_S = 2.0  # no longer than this on one engine ...
MEASURED = 50  # ... and no more images than this
AHEAD = 0.97  # of two engines closer than this, the one named first serves: a start must not be a lottery

MODULES = {"tensorrt": ("tensorrt", "pycuda"), "tensorrt_rtx": ("tensorrt_rtx", "pycuda"), "openvino": ("openvino",)}


@dataclass(frozen=True)
class Proved:
    """An engine in its own process that agrees with the golden set here, ready to serve."""

    candidate: Candidate
    engine: ChildEngine
    golden: GoldenResult
    latency_ms: float  # median of one image through its process, on this machine

    def __str__(self) -> str:
        return f"{self.engine.name} ({self.engine.precision})"


@dataclass(frozen=True)
class Refused:
    """A candidate that does not serve, and the sentence why."""

    candidate: Candidate
    reason: str
    latency_ms: float | None = None  # where it passed the golden set, and was only slower


@dataclass(frozen=True)
class Choice:
    """What `choose` came to."""

    proved: Proved
    refused: tuple[Refused, ...]
    not_built: tuple[Candidate, ...]  # of the refused: these only want an engine file, which a build makes


class NoEngine(EngineError):
    """None of the candidates can serve; `refused` says why of each, and so does the text."""

    def __init__(self, refused: Sequence[Refused], not_built: Sequence[Candidate]):
        super().__init__(" ".join(each.reason for each in refused))
        self.refused, self.not_built = tuple(refused), tuple(not_built)


ProveIt = Callable[[Candidate, bool], Proved]  # `prove` with the rest of its arguments: candidate, measure


def candidates(
    kind: EngineKind | str, *, precision: str = "auto", threads: int | None = None, device: int = 0, cache: str | None
) -> list[Candidate]:
    """The candidates of a configured `kind`; "auto": of every engine that is installed here. The plainest come first.

    precision: openvino's; "auto" tries float32 and bfloat16.
    """
    kinds: list[EngineKind] = ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
    if kind != "auto":
        kinds = [each for each in (*kinds, "replay") if each == kind]  # type: ignore[list-item]
    found: list[Candidate] = []
    for each in kinds:
        if kind == "auto" and not installed(each):
            continue
        if each == "openvino":
            both = ("float32", "bfloat16") if precision == "auto" else (precision,)
            found += [Candidate(each, one, threads=threads) for one in both]
        elif each in ("tensorrt", "tensorrt_rtx"):
            found.append(Candidate(each, device=device, cache=cache))
        else:
            found.append(Candidate(each, threads=threads))
    return found


def installed(kind: EngineKind) -> bool:
    """Are the modules that this engine needs on this machine? Nothing is loaded for the answer."""
    return all(importlib.util.find_spec(module) is not None for module in MODULES.get(kind, ()))


def prove(
    bundle: Bundle,
    candidate: Candidate,
    *,
    opener: Opener = open_candidate,
    timeout_s: float = 10.0,
    measure: bool = True,
    cancelled: threading.Event | None = None,
) -> Proved:
    """Start the engine in a process of its own and hold it to the golden set. EngineError where it can't serve.

    measure: also time it on golden images, warmed up; otherwise the latency is the median of the golden run itself.
    """
    engine = ChildEngine(bundle, candidate, opener=opener, timeout_s=timeout_s, cancelled=cancelled)
    try:
        timed = _Timed(engine)
        golden = check_golden(timed, bundle)
        latency_s = measure_latency(engine, read_golden(bundle).images) if measure else statistics.median(timed.seconds)
    except BaseException:
        engine.close()
        raise
    return Proved(candidate, engine, golden, round(1000 * latency_s, 3))


class _Timed:
    """An engine, and how long each of its calls took."""

    def __init__(self, engine: ChildEngine):
        self.name, self.seconds = engine.name, list[float]()
        self._engine = engine

    def run(self, images: np.ndarray) -> Scores:
        started = time.perf_counter()
        scores = self._engine.run(images)
        self.seconds.append(time.perf_counter() - started)
        return scores

    def close(self) -> None:
        self._engine.close()


def measure_latency(engine: ChildEngine, images: np.ndarray) -> float:
    """Median seconds of one image."""
    for at in range(WARM_UP):
        engine.run(images[at % len(images)][None])
    times: list[float] = []
    until = time.perf_counter() + MEASURED_S
    while len(times) < MEASURED and time.perf_counter() < until:
        started = time.perf_counter()
        engine.run(images[len(times) % len(images)][None])
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def choose(of: Sequence[Candidate], prove_it: ProveIt) -> Choice:
    """Prove each candidate in turn and keep the fastest, still open. NoEngine where none passes.

    A single candidate is not timed.
    """
    best: Proved | None = None
    refused: list[Refused] = []
    not_built: list[Candidate] = []
    for candidate in of:
        try:
            found = prove_it(candidate, len(of) > 1)
        except EngineError as error:
            refused.append(Refused(candidate, str(error)))
            if isinstance(error, EngineNotBuilt):
                not_built.append(candidate)
            continue
        if best is not None and found.latency_ms >= AHEAD * best.latency_ms:
            refused.append(slower(found, best))
            found.engine.close()
            continue
        if best is not None:
            refused.append(slower(best, found))
            best.engine.close()
        best = found
    if best is None:
        raise NoEngine(refused, not_built)
    return Choice(best, tuple(refused), tuple(not_built))


def slower(slow: Proved, fast: Proved) -> Refused:
    """Why `slow`, which is right too, doesn't serve."""
    reason = (
        f"{slow} agrees with the golden set and takes {slow.latency_ms:.2f} ms for an image; {fast} takes "
        f"{fast.latency_ms:.2f} ms."
    )
    if slow.latency_ms < fast.latency_ms:
        reason += f" Of two closer than {100 * (1 - AHEAD):.0f} % the plainer one serves."
    return Refused(slow.candidate, reason, slow.latency_ms)
