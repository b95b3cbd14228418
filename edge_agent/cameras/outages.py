"""Outages of live cameras as events, no more of them than anybody can read."""

from collections.abc import Callable, Mapping

from edge_agent.cameras.frame import Camera
from edge_agent.cameras.live import LiveCamera, Outage
from edge_agent.commands.limits import Rate
from edge_agent.engine_state import EventNote

PER_MINUTE = 6  # outages of one camera that are told; a loose plug makes more, and `outages` counts them all


def watch_outages(cameras: Mapping[str, Camera], note_event: Callable[[EventNote], None]) -> None:
    """Have the live ones among the cameras tell when they are lost and when they are back."""
    for name, camera in cameras.items():
        if isinstance(camera, LiveCamera):
            camera.on_outage = _Teller(name, note_event).note


class _Teller:
    """Of one camera."""

    def __init__(self, name: str, note_event: Callable[[EventNote], None]):
        self._name, self._note_event = name, note_event
        self._rate, self._told = Rate(PER_MINUTE), False

    def note(self, outage: Outage) -> None:
        counts = {"outages": outage.number}
        if outage.lost:
            self._told = self._rate.allows()
            if self._told:
                self._note_event(("camera_lost", "warning", f"Camera {self._name}: {outage.text}", counts))
        elif self._told:
            counts["gone_ms"] = outage.gone_ms
            self._note_event(("camera_back", "info", f"Camera {self._name}: {outage.text}", counts))
