"""From a bundle and the candidates for it to an engine in service, which stays in service."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_agent.bundle import Bundle
from edge_agent.engines.build import Builder, OnProgress, build_beside, build_candidate
from edge_agent.engines.child import Candidate, Opener, open_candidate
from edge_agent.engines.choose import Choice, NoEngine, ProveIt, choose, prove
from edge_agent.engines.status import Incident, Status
from edge_agent.engines.supervise import Supervisor

log = logging.getLogger(__name__)


def serve_bundle(
    bundle: Bundle,
    of: Sequence[Candidate],
    *,
    asked: str,
    fallback: bool = True,
    threads: int | None = None,
    timeout_s: float = 10.0,
    wait_s: float = 5.0,
    opener: Opener = open_candidate,
    builder: Builder = build_candidate,
    on_change: Callable[[Status], None] = lambda status: None,
    on_incident: Callable[[Incident], None] = lambda incident: None,
    closing: threading.Event | None = None,
) -> Supervisor:
    """Choose among the candidates, and keep the best one in service; returns once one serves. NoEngine: none can.

    asked: the configured kind; "auto" takes whatever is fastest, anything else is what should serve in the end.
    fallback: ONNX Runtime serves where that can't, or isn't built yet. closing: where it becomes set, all that was
    started ends; `close` of the Supervisor sets it.
    """
    closing = closing or threading.Event()
    prove_it: ProveIt = lambda candidate, measure: prove(  # noqa: E731
        bundle, candidate, opener=opener, timeout_s=timeout_s, measure=measure, cancelled=closing
    )
    build_it: Callable[[Candidate, OnProgress], None] = lambda candidate, on_progress: build_beside(  # noqa: E731
        bundle, candidate, builder=builder, on_progress=on_progress, cancelled=closing
    )
    spare = Candidate("onnxruntime", threads=threads) if fallback and asked != "replay" else None
    choice, why = choose_with_fallback(of, spare, prove_it, asked)
    for each in choice.refused:
        log.info("Not %s: %s", each.candidate, each.reason)
    log.info("The engine %s serves: %s", choice.proved, why)
    return Supervisor(
        choice,
        asked=asked,
        why=why,
        prove_it=prove_it,
        build_it=build_it,
        fallback=spare,
        wanted=None if asked == "auto" else choice.proved.candidate if choice.proved.candidate in of else of[0],
        only_if_faster=asked == "auto",
        wait_s=wait_s,
        on_change=on_change,
        on_incident=on_incident,
        closing=closing,
    )


def choose_with_fallback(
    of: Sequence[Candidate], spare: Candidate | None, prove_it: ProveIt, asked: str
) -> tuple[Choice, str]:
    """The choice and the sentence why. NoEngine with all reasons where not even the spare one serves."""
    try:
        choice = choose(of, prove_it)
    except NoEngine as error:
        if spare is None or spare in of:
            raise
        try:
            choice = choose([spare], prove_it)
        except NoEngine as last:
            raise NoEngine([*error.refused, *last.refused], error.not_built) from None
        choice = replace(choice, refused=error.refused, not_built=error.not_built)
        first = error.refused[0].reason
        until = "until its engine file is built" if error.not_built else "for that one can't serve here"
        return choice, f"engine.kind is {asked}; {choice.proved} serves {until}: {first}"
    if len(of) == 1:
        return choice, "it is the only one installed here." if asked == "auto" else f"engine.kind is {asked}."
    passed = 1 + sum(each.latency_ms is not None for each in choice.refused)
    which = "the fastest on this machine" if asked == "auto" else f"engine.kind is {asked}; the fastest precision"
    return choice, (
        f"{which}, {choice.proved.latency_ms:.2f} ms for an image, of {passed} that agree with the golden set "
        f"({len(of)} tried)."
    )
