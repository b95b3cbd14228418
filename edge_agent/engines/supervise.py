"""The engine that the pipeline sees: whatever happens to the process behind it, another one takes its place.

Engines change between two parts only: what was submitted to one is collected from it. Work that takes time (start and
prove a process, build an engine file) is done in threads of its own, while the present engine serves on.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from edge_agent.bundle import BundleError
from edge_agent.engines import EngineDied, EngineError, Scores
from edge_agent.engines.build import OnProgress
from edge_agent.engines.child import SLOTS, Candidate
from edge_agent.engines.choose import AHEAD, Choice, Proved, ProveIt, Refused, slower
from edge_agent.engines.status import Building, Incident, IncidentKind, Status, with_engine

log = logging.getLogger(__name__)

LOOK_S = 0.2  # how often the present engine is looked after when nobody calls
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.5, 30.0  # before a second new process, doubled for each further one
RESTLESS_S = 60.0  # deaths within this time are one row of deaths
TOO_MANY = 3  # deaths in a row, then the fallback serves
DOUBT_S = 60.0  # a process whose answers are nonsense is replaced no more often than this
RETRY_S = 300.0  # while the fallback serves: so often the engine that was asked for gets another chance
PROGRESS_STEP = 10  # percent: what is published of a build


@dataclass
class _Out:
    """A ticket: with the engine that has its images, or still with the images where none served at that time."""

    serving: Proved | None
    ticket: int = 0
    images: np.ndarray | None = field(default=None, repr=False)


class Supervisor:
    """A Slotted engine that outlives its processes. submit and collect are for one thread.

    prove_it: starts a candidate's process and proves it. build_it(candidate, on_progress): makes its engine file.
    fallback: serves where the wanted engine can't. wait_s: from an engine's death on, parts wait so long for a new one,
    and are unknown at once after that. only_if_faster: what was built must also be faster than what serves.
    on_change, on_incident: called from several threads; they must return at once.
    """

    slots = SLOTS

    def __init__(
        self,
        choice: Choice,
        *,
        asked: str,
        why: str,
        prove_it: ProveIt,
        build_it: Callable[[Candidate, OnProgress], None],
        fallback: Candidate | None = None,
        wanted: Candidate | None = None,
        only_if_faster: bool = False,
        wait_s: float = 5.0,
        on_change: Callable[[Status], None] = lambda status: None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        closing: threading.Event | None = None,
    ):
        self._serving: Proved | None = choice.proved
        self._wanted = wanted or choice.proved.candidate
        self._prove, self._build, self._fallback = prove_it, build_it, fallback
        self._only_if_faster, self._wait_s = only_if_faster, wait_s
        self._on_change, self._on_incident = on_change, on_incident
        self._changed = threading.Condition()
        self._closing = closing or threading.Event()
        self._out: dict[int, _Out] = {}
        self._tickets = count(1)
        self._retired: list[Proved] = []
        self._deaths: deque[float] = deque(maxlen=32)
        self._down_since = 0.0
        self._trouble = ""
        self._doubted: Proved | None = None
        self._served = choice.proved.candidate
        self._renewed = float("-inf")
        self._tried: float | None = None  # when an engine that had served, and can't for now, got its last chance
        self._status = with_engine(
            Status("serving", "", "", 0.0, asked, why, fallback=choice.proved.candidate != self._wanted),
            choice.proved,
            refused=choice.refused,
        )
        self.name = self._status.name
        on_change(self._status)
        threads = [threading.Thread(target=self._keep_serving, name="engine keeper", daemon=True)]
        if choice.not_built:
            work = partial(self._build_all, choice.not_built)
            threads.append(threading.Thread(target=work, name="engine builds", daemon=True))
        self._threads = threads
        for thread in threads:
            thread.start()

    @property
    def status(self) -> Status:
        return self._status

    @property
    def building(self) -> bool:
        """Engine files are being built: what serves now may not be what serves in the end."""
        return any(thread.is_alive() for thread in self._threads[1:])

    @property
    def pid(self) -> int | None:
        """Of the process that serves."""
        serving = self._serving
        return None if serving is None else serving.engine.pid

    def submit(self, images: np.ndarray) -> int:
        """Never waits: where no engine serves, `collect` does."""
        ticket = next(self._tickets)
        with self._changed:
            out = self._out[ticket] = _Out(self._serving, images=images)
        try:
            if out.serving is not None:
                self._hand_over(out, out.serving)
        except BaseException:
            with self._changed:
                del self._out[ticket]
            raise
        return ticket

    def collect(self, ticket: int) -> Scores:
        """The answer. EngineError where the engine failed, died with it, or none came back into service in time."""
        out = self._out[ticket]
        try:
            while out.images is not None:
                self._hand_over(out, self._wait_for_engine(out))
            serving = out.serving
            assert serving is not None
            try:
                scores = serving.engine.collect(out.ticket)
            except EngineDied as error:
                self._note_death(serving, str(error))
                raise
            except EngineError:
                self._doubt(serving)
                raise
            if not _sound(scores):
                self._doubt(serving)
            return scores
        finally:
            with self._changed:
                del self._out[ticket]

    def run(self, images: np.ndarray) -> Scores:
        return self.collect(self.submit(images))

    def close(self) -> None:
        """End all processes and threads."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(30.0)
        with self._changed:
            left, self._retired = [*self._retired, *([self._serving] if self._serving else [])], []
            self._serving = None
        for each in left:
            each.engine.close()

    def _hand_over(self, out: _Out, serving: Proved) -> None:
        """Give the images to the engine; where it turns out to be dead they stay with the ticket."""
        assert out.images is not None
        try:
            out.ticket = serving.engine.submit(out.images)
        except EngineDied as error:
            out.serving = None
            self._note_death(serving, str(error))
        else:
            out.images = None

    def _wait_for_engine(self, out: _Out) -> Proved:
        with self._changed:
            while self._serving is None:
                left = self._down_since + self._wait_s - time.monotonic()
                if left <= 0 or self._closing.is_set():
                    raise EngineError(f"No engine serves: {self._trouble} A new one is being started.")
                self._changed.wait(left)
            out.serving = self._serving
            return self._serving

    def _note_death(self, serving: Proved, text: str) -> None:
        now = time.monotonic()
        with self._changed:
            if self._serving is not serving:
                return  # known already, or an engine that had been replaced
            self._serving = None
            self._retired.append(serving)
            self._down_since, self._trouble = now, text
            self._deaths.append(now)
            lost = sum(out.serving is serving for out in self._out.values())
            self._changed.notify_all()
        self._say(
            "engine_failed", f"{serving}: {text} Parts in flight, now unknown: {lost}. A new one is being started."
        )
        self._publish(condition="restarting")

    def _doubt(self, serving: Proved) -> None:
        with self._changed:
            if self._doubted is None and self._serving is serving:
                self._doubted = serving
                self._changed.notify_all()

    # The keeper's thread

    def _keep_serving(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                if self._serving is not None and self._doubted is None:
                    self._changed.wait(LOOK_S)
                serving, now = self._serving, time.monotonic()
                free = [each for each in self._retired if all(out.serving is not each for out in self._out.values())]
                self._retired = [each for each in self._retired if each not in free]
            for each in free:
                each.engine.close()
            if serving is None:
                self._restart()
            elif not serving.engine.alive:
                self._note_death(serving, serving.engine.how_it_ended())
            elif self._doubted is not None:
                if now >= self._renewed + DOUBT_S:
                    self._renew(serving)
                else:
                    self._closing.wait(LOOK_S)
            elif self._tried is not None and self._tried + RETRY_S <= now:
                self._return_to_wanted()

    def _restart(self) -> None:
        """A new process of the engine that served; of the fallback where it won't start, or dies again and again."""
        row = [moment for moment in self._deaths if moment > time.monotonic() - RESTLESS_S]
        if len(row) > 1 and self._closing.wait(min(BACKOFF_MIN_S * 2.0 ** (len(row) - 2), BACKOFF_MAX_S)):
            return
        candidate, spare = self._served, None if self._served == self._fallback else self._fallback
        reason = self._trouble if len(row) < TOO_MANY else f"It died {len(row)} times in a minute. {self._trouble}"
        order = [candidate] if spare is None else [candidate, spare] if len(row) < TOO_MANY else [spare, candidate]
        for each in order:
            if self._closing.is_set():
                return
            try:
                found = self._prove_it(each, False)
            except EngineError as error:
                reason = str(error)
                continue
            if self._serving is not None:  # an engine that was built meanwhile
                found.engine.close()
                return
            if each == candidate:
                self._install(self._as_timed(found), restarts=1)
                return
            self._tried = time.monotonic()
            text = f"{candidate} can't serve any more: {reason} {found} serves instead."
            self._install(found, chosen=text, refused=Refused(candidate, reason), fallback=True, restarts=1)
            self._say("engine_refused", text)
            return
        self._trouble = reason
        self._deaths.append(time.monotonic())  # the next attempt waits longer

    def _renew(self, doubted: Proved) -> None:
        """Replace a process whose answers are nonsense by a new one of the same engine, once that has proved itself."""
        log.warning("%s gave nonsense or failed; a new process is started to take its place.", doubted)
        try:
            found = self._as_timed(self._prove_it(doubted.candidate, False))
            if self._serving in (None, doubted):
                self._install(found, restarts=1)
            else:  # an engine that was built meanwhile serves
                found.engine.close()
        except EngineError as error:
            self._say("engine_refused", f"A new process of {doubted} was not taken: {error} The old one serves on.")
        finally:
            self._renewed = time.monotonic()
            with self._changed:
                self._doubted = None

    def _as_timed(self, again: Proved) -> Proved:
        """A new process of the engine that served, with the latency that was measured of it when it was chosen."""
        return replace(again, latency_ms=self._status.latency_ms)

    def _return_to_wanted(self) -> None:
        self._tried = time.monotonic()
        try:
            found = self._prove_it(self._wanted, True)
        except EngineError as error:
            log.debug("%s still can't serve: %s", self._wanted, error)
            return
        self._tried = None
        self._install(found, chosen=f"{found} is what was asked for, and serves again.", fallback=False)

    # The builds' thread

    def _build_all(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            if self._closing.is_set():
                return
            progress = partial(self._note_progress, candidate)
            progress("start", 0.0)
            try:
                self._build(candidate, progress)
                found = self._prove_it(candidate, True)
            except EngineError as error:
                self._refuse(Refused(candidate, str(error)))
                continue
            except Exception as error:
                log.debug("The build of %s", candidate, exc_info=True)
                self._refuse(Refused(candidate, f"{type(error).__name__}: {error}."))
                continue
            serving = self._serving
            if self._only_if_faster and serving is not None and found.latency_ms >= AHEAD * serving.latency_ms:
                found.engine.close()
                self._refuse(slower(found, serving))
                continue
            self._wanted, self._tried = candidate, None
            why = f"{found} was built on this device, agrees with the golden set and takes {found.latency_ms:.2f} ms."
            old = slower(serving, found) if serving and self._only_if_faster else None
            self._install(found, chosen=why, refused=old, fallback=False, building=None)

    def _note_progress(self, candidate: Candidate, stage: str, fraction: float) -> None:
        percent = int(100 * min(max(fraction, 0.0), 1.0)) // PROGRESS_STEP * PROGRESS_STEP
        before = self._status.building
        if before is None or before.name != str(candidate) or percent > before.percent:
            log.info("Building %s: %d %%, %s.", candidate, percent, stage)
            self._publish(building=Building(str(candidate), stage, percent))

    def _refuse(self, refused: Refused) -> None:
        if self._closing.is_set():
            return
        self._publish(refused=refused, building=None)
        text = f"{refused.candidate} was not taken into service: {refused.reason} {self.name} serves on."
        self._say("engine_refused", text)

    # Of both threads

    def _prove_it(self, candidate: Candidate, measure: bool) -> Proved:
        """As given, but whatever goes wrong is an EngineError: these threads have to live on."""
        try:
            return self._prove(candidate, measure)
        except EngineError:
            raise
        except Exception as error:
            log.debug("Starting %s", candidate, exc_info=True)
            text = str(error) if isinstance(error, BundleError) else f"{type(error).__name__}: {error}."
            raise EngineError(f"{candidate} can't be proved: {text}") from error

    def _install(self, found: Proved, **status: Any) -> None:
        """Serve with `found` from the next part on; the engine before it keeps what it has begun."""
        with self._changed:
            if not self._closing.is_set():
                if self._serving is not None:
                    self._retired.append(self._serving)
                self._serving, self._served = found, found.candidate
                self._changed.notify_all()
                installed = True
            else:
                installed = False
        if not installed:
            found.engine.close()
            return
        self._publish(serving=found, condition="serving", **status)
        log.info("The engine %s serves: %s", found, self._status.chosen)

    def _publish(self, *, serving: Proved | None = None, refused: Refused | None = None, **changes: Any) -> None:
        with self._changed:
            status = self._status
            if "restarts" in changes:
                changes["restarts"] = status.restarts + 1
            others = tuple(each for each in status.refused if refused is None or each.candidate != refused.candidate)
            if serving is not None:
                others = tuple(each for each in others if each.candidate != serving.candidate)
            status = replace(status, **changes, refused=(*others, *([refused] if refused else [])))
            self._status = status if serving is None else with_engine(status, serving)
            self.name = self._status.name
            self._on_change(self._status)

    def _say(self, kind: IncidentKind, text: str) -> None:
        log.error("%s", text)
        self._on_incident(Incident(kind, text))


def _sound(scores: Scores) -> bool:
    """Finite, and a map of more than one value: what an engine in good order gives of a real part."""
    if not all(np.isfinite(values).all() for values in scores):
        return False
    return all(each.min() < each.max() for each in scores.anomaly_map)
