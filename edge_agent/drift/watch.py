"""Each camera and product against its own first parts; one event as it begins to drift, one when it is back."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_agent import clock
from edge_agent.decision import Verdict
from edge_agent.drift.cusum import Cusum, Reference
from edge_agent.drift.settings import DriftConfig
from edge_agent.drift.statistics import WATCHED, look_at
from edge_agent.engine_state import EventNote
from edge_agent.messages import DriftOfHealth

log = logging.getLogger(__name__)

KEPT_REFERENCES = 64  # in the file; the oldest leave
NAMES = [watched.name for watched in WATCHED]
SCORE = NAMES.index("score")


class Line(NamedTuple):
    """What has a look of its own."""

    camera: str
    product: str  # as its bundle is named
    digest: str  # of the bundle
    crop: tuple[int, int, int, int] | None  # in force

    @property
    def key(self) -> str:
        crop = "whole" if self.crop is None else ",".join(map(str, self.crop))
        return f"{self.camera}/{self.digest}/{crop}"


@dataclass(eq=False)
class _Watch:
    cusum: Cusum | None = None  # None: still learning
    learned: list[np.ndarray] = field(default_factory=list)
    since: str = ""  # when the reference was complete
    alarmed: bool = False  # the scores have drifted upwards in this episode, and it was said


class Drift:
    """`watch` is for one thread; `health` may come from another. Neither ever raises for a disk in trouble."""

    def __init__(self, config: DriftConfig, on_event: Callable[[EventNote], None] = lambda event: None):
        """Reads the references of earlier runs."""
        self._config, self._on_event = config, on_event
        self._lock = threading.Lock()
        self._watches: dict[Line, _Watch] = {}
        self._references = _read(config.file)

    def watch(self, line: Line, verdict: Verdict, image: np.ndarray | None, image_score: float | None) -> None:
        """One decided part. image: uint8 [h, w, 3] RGB at model size. A part that could not be judged says nothing."""
        if verdict == "unknown" or image is None or image_score is None:
            return
        passed = verdict == "pass"
        values = look_at(image, image_score if passed else np.nan)
        with self._lock:
            if (watch := self._watches.get(line)) is None:
                watch = self._watches[line] = self._begin(line)
            if watch.cusum is None:
                if passed:
                    self._learn(line, watch, values)
                return
            before = watch.cusum.drifted
            began = watch.cusum.observe(values)
            drifted = watch.cusum.drifted
        self._tell(line, watch, before, began, drifted)

    def health(self) -> tuple[DriftOfHealth, ...]:
        """How each camera and product stands."""
        with self._lock:
            return tuple(self._state(line, watch) for line, watch in self._watches.items())

    def _state(self, line: Line, watch: _Watch) -> DriftOfHealth:
        camera, product, cusum = line.camera, line.product, watch.cusum
        if cusum is None:
            n = len(watch.learned)
            return DriftOfHealth(camera=camera, product=product, state="learning", reference_parts=n)
        return DriftOfHealth(
            camera=camera,
            product=product,
            state="drifting" if cusum.drifted.any() else "steady",
            reference_parts=cusum.reference.parts,
            drifted=tuple(name for name, drifted in zip(NAMES, cusum.drifted, strict=True) if drifted),
            changes={name: round(_change(at, cusum.shift[at]), 4) for at, name in enumerate(NAMES)},
        )

    def _begin(self, line: Line) -> _Watch:
        for other in [each for each in self._watches if each.camera == line.camera and each.product == line.product]:
            del self._watches[other]  # another model, or another crop: its parts can't be compared
        if (kept := self._references.get(line.key)) is None:
            return _Watch()
        reference = Reference(np.array(kept["mean"]), np.array(kept["spread"]), kept["parts"])
        return _Watch(self._cusum(reference), since=kept["since"])

    def _learn(self, line: Line, watch: _Watch, values: np.ndarray) -> None:
        watch.learned.append(values)
        if len(watch.learned) < self._config.reference_parts:
            return
        reference = Reference.of(np.stack(watch.learned))
        watch.cusum, watch.learned, watch.since = self._cusum(reference), [], clock.now()
        self._references.pop(line.key, None)
        self._references[line.key] = {
            "statistics": NAMES,
            "mean": reference.mean.tolist(),
            "spread": reference.spread.tolist(),
            "parts": reference.parts,
            "since": watch.since,
        }
        for key in list(self._references)[:-KEPT_REFERENCES]:
            del self._references[key]
        _write(self._config.file, self._references)

    def _cusum(self, reference: Reference) -> Cusum:
        worth = np.array([watched.worth for watched in WATCHED]) * self._config.change
        return Cusum(reference, worth, self._config.false_alarm_parts * float(len(WATCHED)))

    def _tell(self, line: Line, watch: _Watch, before: np.ndarray, began: np.ndarray, drifted: np.ndarray) -> None:
        cusum = watch.cusum
        assert cusum is not None
        where = f"The pictures of {line.camera} ({line.product})"
        rising = bool(began[SCORE] and cusum.shift[SCORE] > 0)
        if began.any() and (not before.any() or (rising and not watch.alarmed)):
            watch.alarmed = rising
            what = ", ".join(_words(int(at), cusum.shift[at]) for at in np.flatnonzero(drifted))
            causes = "; ".join(dict.fromkeys(WATCHED[at].causes for at in np.flatnonzero(drifted)))
            text = (
                f"{where} have drifted: {what}, against {cusum.reference.parts} parts of {watch.since}. "
                f"Mostly that is {causes}. Show the camera a golden part."
            )
            log.warning("%s", text)
            self._on_event(("drift", "alarm" if rising else "warning", text))
        elif before.any() and not drifted.any():
            watch.alarmed = False
            text = f"{where} are again as they were on {watch.since}."
            log.info("%s", text)
            self._on_event(("drift_over", "info", text))


def _change(at: int, shift: float) -> float:
    """As a share of the reference; of the score: in thresholds."""
    return float(shift) if at == SCORE else float(np.expm1(shift))


def _words(at: int, shift: float) -> str:
    change = _change(at, shift)
    amount = f"{abs(change):.2f} of the threshold" if at == SCORE else f"{100 * abs(change):.1f} %"
    return f"{NAMES[at]} {amount} {'up' if change > 0 else 'down'}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The references; none where the file is missing, damaged or of other statistics."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: _checked(value) for key, value in found.items() if value["statistics"] == NAMES}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s holds no references (%s: %s). They are learned anew.", path, type(error).__name__, error)
        return {}


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    numbers = np.array([value["mean"], value["spread"]], float)
    if numbers.shape != (2, len(NAMES)) or not np.isfinite(numbers).all() or (numbers[1] < 0).any():
        raise ValueError("not one finite mean and spread per statistic")
    if not isinstance(value["parts"], int) or value["parts"] < 1 or not isinstance(value["since"], str):
        raise ValueError("parts and since are missing")
    return value


def _write(path: Path, references: dict[str, dict[str, Any]]) -> None:
    """Whole or not at all after a kill; after a power cut `_read` tells a damaged one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(references, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        log.warning("%s can't be written (%s); after a restart the reference is learned anew.", path, error.strerror)
