"""What looks on while parts are judged, and never has a say: the spool and the drift alarm."""

from dataclasses import dataclass

import numpy as np

from edge_agent.config import AgentConfig
from edge_agent.drift.watch import Drift, Line
from edge_agent.engine_state import EngineState
from edge_agent.messages import DriftOfHealth, Result
from edge_agent.preprocess import Preprocessing
from edge_agent.spool.choice import Judged
from edge_agent.spool.spool import Spool, SpoolState


@dataclass(frozen=True)
class Onlookers:
    """None: not wanted."""

    spool: Spool | None = None
    drift: Drift | None = None

    def hold(self, frame: np.ndarray | None) -> np.ndarray | None:
        """A camera's whole frame, for `see`, which must be called once for everything held."""
        return None if self.spool is None else self.spool.hold(frame)

    def see(
        self,
        result: Result,
        judged: Judged,
        preprocessing: Preprocessing,
        image: np.ndarray | None,
        held: np.ndarray | None,
    ) -> None:
        """A decided part. judged: the result, or its view by the camera of the frame. image: uint8 [h, w, 3] RGB at
        model size, made with `preprocessing`. held: what `hold` gave. Returns at once.
        """
        if self.drift is not None:
            line = Line(judged.camera, judged.model.name, judged.model.digest, preprocessing.crop)
            self.drift.watch(line, judged.verdict, image, judged.image_score)
        if self.spool is not None:
            self.spool.offer(result, judged, held)

    @property
    def spool_state(self) -> SpoolState:
        return SpoolState() if self.spool is None else self.spool.state

    @property
    def drift_state(self) -> tuple[DriftOfHealth, ...]:
        return () if self.drift is None else self.drift.health()

    def close(self) -> None:
        if self.spool is not None:
            self.spool.close()


def make_onlookers(config: AgentConfig, state: EngineState) -> Onlookers:
    """As the configuration wants them; `state` carries their events to the stage that publishes."""

    def on_trouble(broken: bool, text: str) -> None:
        if broken:
            state.note_event(("spool_stopped", "warning", text))
        else:
            state.note_event(("spool_resumed", "info", text))

    spool = Spool(config.spool, on_trouble) if config.spool.folder is not None else None
    drift = Drift(config.drift, state.note_event) if config.drift.enabled else None
    return Onlookers(spool, drift)
