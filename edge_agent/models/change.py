"""A bundle on its way into service, beside the line: opened, admitted, proved, compared; then others switch."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.bundle import Bundle, BundleError
from edge_agent.engines import EngineError
from edge_agent.messages import AckReason
from edge_agent.models.judge import Judge, Judges
from edge_agent.models.shadow import Compared, Shadow
from edge_agent.models.shelf import NotOnTheShelf

log = logging.getLogger(__name__)

FAREWELL_S = 30.0  # an engine that is just being started takes a while to end


@dataclass(frozen=True)
class Ready:
    """It may take over between two parts."""

    judge: Judge
    compared: Compared | None = None


@dataclass(frozen=True)
class TurnedDown:
    """The bundle before serves on."""

    reason: AckReason
    detail: str
    compared: Compared | None = None


class Change:
    """The work, in a thread of its own; `outcome` is set once, then `wake` is called.

    find: where the bundle lies. open_it: every file checked. admit: why this bundle must not serve; None: it may.
    appoint: gives it an engine that was proved. trial: the comparison with what serves; None: that isn't wanted.
    """

    def __init__(
        self,
        find: Callable[[], Path],
        open_it: Callable[[Path], Bundle],
        admit: Callable[[Bundle], TurnedDown | None],
        appoint: Callable[[Bundle, threading.Event], Judge],
        trial: Callable[[Judge], Shadow | TurnedDown | None],
        judges: Judges,
        *,
        shadow_timeout_s: float,
        wake: Callable[[], None],
    ):
        self._find, self._open, self._admit, self._appoint = find, open_it, admit, appoint
        self._trial, self._judges, self._shadow_timeout_s, self._wake = trial, judges, shadow_timeout_s, wake
        self._cancelled = threading.Event()
        self.outcome: Ready | TurnedDown | None = None
        self._thread = threading.Thread(target=self._run, name="model change", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Give it up; what it had begun ends, and so does a judge that was ready."""
        self._cancelled.set()
        self._thread.join(FAREWELL_S)
        if isinstance(self.outcome, Ready):
            self.outcome.judge.engine.close()

    def _run(self) -> None:
        try:
            self.outcome = self._work()
        except Exception as error:  # this thread has to leave a word, whatever happens
            log.debug("Changing the model", exc_info=True)
            self.outcome = TurnedDown("not_proved", f"{type(error).__name__}: {error}")
        self._wake()

    def _work(self) -> Ready | TurnedDown:
        try:
            bundle = self._open(self._find())
        except NotOnTheShelf as error:
            return TurnedDown("unknown_bundle", str(error))
        except BundleError as error:
            return TurnedDown("bad_bundle", str(error))
        if (refusal := self._admit(bundle)) is not None:
            return refusal
        try:
            judge = self._appoint(bundle, self._cancelled)
        except (EngineError, BundleError) as error:
            return TurnedDown("not_proved", str(error))
        outcome: Ready | TurnedDown | None = None
        try:
            outcome = self._compare(judge)
        finally:
            if not isinstance(outcome, Ready):
                judge.engine.close()
        return outcome

    def _compare(self, judge: Judge) -> Ready | TurnedDown:
        shadow = self._trial(judge)
        if shadow is None:
            return Ready(judge)
        if isinstance(shadow, TurnedDown):
            return shadow
        self._judges.shadow = shadow
        try:
            compared = shadow.run(self._shadow_timeout_s, self._cancelled)
        finally:
            self._judges.shadow = None
        if shadow.failed:
            what = f"{compared.flips} of {compared.parts} parts would have got another verdict"
            return TurnedDown("disagrees", f"{what}, {shadow.most_flips} of {shadow.parts} are allowed.", compared)
        if not shadow.done:
            detail = f"Only {compared.parts} of {shadow.parts} parts came within {self._shadow_timeout_s:g} s."
            return TurnedDown("too_few_parts", detail, compared)
        return Ready(judge, compared)
