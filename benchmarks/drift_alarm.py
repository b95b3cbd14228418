"""Does the drift alarm come before the false-reject rate doubles? On good images whose gain is changed.

    python benchmarks/drift_alarm.py --bundle BUNDLE --images FOLDER [--images FOLDER ...]

FOLDER: good images. They pass the line again and again in random order: the reference, then either another gain at
once, or one that creeps by 1 % in 10,000 parts. Prints the false-reject rate at each gain, how many parts the alarm
took, and for the creeping gain where it stood at the alarm and where the false-reject rate has doubled. Writes
benchmarks/results/drift_alarm_PRODUCT.json.
"""

import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edge_agent.bundle import open_bundle
from edge_agent.drift.settings import DriftConfig
from edge_agent.drift.watch import Drift, Line
from edge_agent.engines import open_engine
from edge_agent.preprocess import IMAGE_SUFFIXES, prepare, read_image

RESULTS = Path(__file__).parent / "results"
OFF = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1)
GAINS = np.array(
    sorted([1.0 - off for off in OFF] + [1.0] + [1.0 + off for off in OFF])
)  # scored; between: interpolated
STEPS = (0.925, 0.95, 1.05, 1.075)  # gains that change at once
CREEP = 1e-6  # per part: 1 % in 10,000 parts
LONGEST = 0.1  # it creeps no further


def main(
    bundle: Annotated[Path, typer.Option(help="A bundle.", show_default=False)],
    images: Annotated[list[Path], typer.Option(help="Folders of good images.", show_default=False)],
    turns: Annotated[int, typer.Option(help="Orders of the parts.")] = 10,
) -> None:
    """Measure, print, write the JSON."""
    logging.disable(logging.WARNING)
    opened = open_bundle(bundle)
    paths = [path for folder in images for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    frames = [prepare(read_image(path), opened.manifest.preprocessing) for path in paths]
    engine = open_engine(opened)
    scores = np.array(
        [[float(engine.run(at_gain(frame, gain)[None]).image_score[0]) for gain in GAINS] for frame in frames]
    )
    engine.close()
    line = Recorded(frames, scores)
    for gain in GAINS:
        print(f"gain {gain:6.4f}: {100 * line.rejected(gain):5.1f} % of {len(frames)} good images rejected")
    record: dict[str, Any] = {
        "system": opened.manifest.system, "product": opened.manifest.name, "images": len(frames), "turns": turns,
        "false_reject_rate": {f"{gain:.4f}": round(line.rejected(gain), 4) for gain in GAINS},
        "at_once": {}, "creeping": {},
    }  # fmt: skip
    for step in STEPS:
        found = [parts_to_alarm(line, lambda part, step=step: step, turn, 3000) for turn in range(turns)]
        record["at_once"][str(step)] = summary(found)
        print(f"gain {step} at once: {summary(found)}")
    for name, sign in (("down", -1.0), ("up", 1.0)):
        found = [
            parts_to_alarm(line, lambda part, sign=sign: 1.0 + sign * CREEP * part, turn, int(LONGEST / CREEP))
            for turn in range(turns)
        ]
        far = max((part for part in found if part is not None), default=0)
        record["creeping"][name] = {
            **summary(found),
            "gain_at_latest_alarm": round(1.0 + sign * CREEP * far, 4),
            "gain_where_rate_doubled": line.doubled(sign),
            "rate_at_latest_alarm": round(line.rejected(1.0 + sign * CREEP * far), 4),
        }
        print(f"gain creeping {name}: {record['creeping'][name]}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"drift_alarm_{opened.manifest.name}.json").write_text(json.dumps(record, indent=1) + "\n")


class Recorded:
    """Good parts, and what the detector makes of them at each gain."""

    def __init__(self, frames: list[np.ndarray], scores: np.ndarray):
        self.frames, self._scores = frames, scores

    def score(self, at: int, gain: float) -> float:
        return float(np.interp(gain, GAINS, self._scores[at]))

    def rejected(self, gain: float) -> float:
        return float(np.mean([self.score(at, gain) > 1.0 for at in range(len(self.frames))]))

    def doubled(self, sign: float) -> float | None:
        """The gain nearest to 1 on this side at which twice as many are rejected; of none: 2 parts."""
        goal = 2 * max(self.rejected(1.0), 1 / len(self.frames))
        gains = 1.0 + sign * np.linspace(0.0, LONGEST, 1001)
        return next((round(float(gain), 4) for gain in gains if self.rejected(gain) >= goal), None)


def at_gain(image: np.ndarray, gain: float) -> np.ndarray:
    """uint8 as a camera would give it: rounded and saturated."""
    table = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
    return np.asarray(table[image])


def parts_to_alarm(line: Recorded, gain_of: Callable[[int], float], turn: int, most: int) -> int | None:
    """How many parts after the reference the first event came; None: within `most` it did not."""
    events: list[tuple[str, str, str]] = []
    order = np.random.default_rng(turn)
    config = DriftConfig(file=Path("/dev/null/drift.json"))  # nothing is to be remembered
    drift, top = Drift(config, events.append), Line("top", "part", "digest", None)
    learned = part = 0
    while part < most:
        at = int(order.integers(len(line.frames)))
        gain = gain_of(part) if learned == config.reference_parts else 1.0
        score = line.score(at, gain)
        drift.watch(top, "pass" if score <= 1.0 else "reject", at_gain(line.frames[at], gain), score)
        if learned == config.reference_parts:
            part += 1
        else:
            learned += score <= 1.0
        if events:
            return part
    return None


def summary(found: list[int | None]) -> dict[str, float | int | None]:
    """Of the parts until the alarm; `none` where it never came."""
    parts = [each for each in found if each is not None]
    middle = statistics.median(parts) if parts else None
    return {"median": middle, "most": max(parts, default=None), "none": found.count(None)}


if __name__ == "__main__":
    typer.run(main)
