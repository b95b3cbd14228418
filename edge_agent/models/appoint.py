"""A judge of a bundle: its engine chosen, built and proved as the configuration wants it."""

import threading

from edge_agent.bundle import Bundle
from edge_agent.config import AgentConfig
from edge_agent.engine_state import EngineState, Voice
from edge_agent.engines.build import Builder, build_candidate
from edge_agent.engines.child import Candidate, Opener, open_candidate
from edge_agent.engines.choose import candidates
from edge_agent.engines.serve import serve_bundle
from edge_agent.engines.supervise import Supervisor
from edge_agent.models.judge import Judge

LOOK_S = 0.2


class Appointer:
    """Makes judges; returns once their engine has passed the golden set, from any thread.

    opener, builder: functions of a module; they run in processes of their own and open, or build, the engine there.
    """

    def __init__(
        self,
        config: AgentConfig,
        state: EngineState,
        *,
        opener: Opener = open_candidate,
        builder: Builder = build_candidate,
    ):
        self._config, self._state = config, state
        self._opener, self._builder = opener, builder

    def appoint(self, bundle: Bundle) -> Judge:
        """One that serves as soon as it can, while what is not built yet is built beside the line.

        EngineError where no engine can be trusted with the bundle here.
        """
        return self._appoint(bundle, speaks=True, closing=threading.Event())[0]

    def appoint_beside(self, bundle: Bundle, closing: threading.Event) -> Judge:
        """One that is to replace another: its engine is built first, and says nothing until its `voice` may speak.

        closing: where it becomes set, all that was started for the judge ends.
        """
        judge, engine = self._appoint(bundle, speaks=False, closing=closing)
        while engine.building and not closing.wait(LOOK_S):
            pass
        return judge

    def _appoint(self, bundle: Bundle, *, speaks: bool, closing: threading.Event) -> tuple[Judge, Supervisor]:
        settings, voice = self._config.engine, Voice(self._state, speaks=speaks)
        engine = serve_bundle(
            bundle,
            engine_candidates(self._config),
            asked=settings.kind,
            fallback=settings.fallback,
            threads=settings.threads,
            timeout_s=settings.timeout_s,
            wait_s=settings.wait_s,
            opener=self._opener,
            builder=self._builder,
            on_change=voice.note_status,
            on_incident=voice.note_incident,
            closing=closing,
        )
        return Judge.of(bundle, engine, voice), engine


def engine_candidates(config: AgentConfig) -> list[Candidate]:
    """What `engine` of the configuration allows on this machine."""
    settings = config.engine
    return candidates(
        settings.kind,
        precision=settings.precision,
        threads=settings.threads,
        device=settings.device,
        cache=None if settings.cache is None else str(settings.cache.absolute()),
    )
