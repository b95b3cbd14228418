"""Commands that take a while and change nothing: snapshot and self_test, in threads of their own."""

import threading
import time
from collections.abc import Callable, Mapping

from edge_agent.cameras import Frame
from edge_agent.commands.effect import Effect, Finished, ended
from edge_agent.commands.requests import Command, Refusal, SelfTest, Snapshot
from edge_agent.commands.self_test import self_test
from edge_agent.commands.snapshot import snapshot
from edge_agent.control import Control
from edge_agent.messages import Commanded, EngineInService, Origin
from edge_agent.models.judge import Judges, Key


class Jobs:
    """At most one of each kind at a time. finish: takes their end, from any thread."""

    def __init__(
        self,
        control: Control,
        judges: Judges,
        origin: Origin,
        finish: Callable[[Finished], None],
        *,
        engine: Callable[[], EngineInService | None],
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._control, self._judges, self._origin, self._finish = control, judges, origin, finish
        self._engine, self._monotonic = engine, monotonic
        self._waiting: tuple[str, Commanded, float] | None = None  # a snapshot without its frame, until when
        self._testing = False

    def refuses(self, request: Command) -> Refusal | None:
        if isinstance(request, Snapshot) and self._waiting is not None:
            return Refusal("busy", "Another snapshot waits for its frame.")
        if isinstance(request, SelfTest) and self._testing:
            return Refusal("busy", "Another self test is running.")
        return None

    def accept(self, request: Snapshot | SelfTest, about: Commanded, until: float) -> Effect:
        """until: when the command expires, by the monotonic clock."""
        if isinstance(request, SelfTest):
            return Effect(lambda: self._begin_self_test(about))
        return Effect(lambda: self._begin_snapshot(request.command_id, about, until))

    def attend(self) -> None:
        """A snapshot whose frame doesn't come ends with its command."""
        if self._waiting is not None and self._monotonic() > self._waiting[2]:
            command_id, about, _ = self._waiting
            self._control.want_frame(None)
            detail = "The camera gave no frame before the command expired."
            self._finish(Finished(command_id, ended(about, "no_frame", detail)))

    def close(self) -> None:
        self._control.want_frame(None)

    def told(self, finished: Finished) -> None:
        """That command has its last answer."""
        if finished.outcome.command == "self_test":
            self._testing = False
        if self._waiting is not None and self._waiting[0] == finished.command_id:
            self._waiting = None

    def _begin_snapshot(self, command_id: str, about: Commanded, until: float) -> None:
        self._waiting = (command_id, about, until)
        self._control.want_frame(lambda sequence, frames: self._start(self._snapshot, about, sequence, frames))

    def _begin_self_test(self, about: Commanded) -> None:
        self._testing = True
        self._start(self._self_test, about)

    def _start(self, job: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=job, args=arguments, name="command", daemon=True).start()

    def _snapshot(self, about: Commanded, sequence: int, frames: Mapping[str, Frame]) -> None:
        result_id = self._origin.result_id(sequence)
        reason, detail, images = snapshot(self._origin, result_id, frames)
        outcome = ended(about, reason, detail).model_copy(update={"result_id": result_id})
        self._finish(Finished(str(about.command_id), outcome, images))

    def _self_test(self, about: Commanded) -> None:
        """Each bundle in service, one after the other: its engine answers between two parts."""
        keys: dict[str, Key] = {}
        for key, judge in self._judges.all().items():
            keys.setdefault(judge.bundle.digest, key)
        reason, golden, said = None, None, list[str]()
        for key in keys.values():
            judge = self._judges.take(*key)
            try:
                reason, detail, golden = self_test(self._control, judge, self._engine_name)
            finally:
                self._judges.release(judge)
            said.append(detail if len(keys) == 1 else f"{judge.model.name} version {judge.model.version}: {detail}")
            if reason is not None:
                break
        outcome = ended(about, reason, " ".join(said)).model_copy(update={"golden": golden})
        self._finish(Finished(str(about.command_id), outcome))

    def _engine_name(self) -> str:
        engine = self._engine()
        return "The engine" if engine is None else f"{engine.name} ({engine.precision})"
