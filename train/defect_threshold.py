"""The image threshold of a detector, fitted between held-out good images and generated defects.

The rule of `train/fit_threshold.py` needs no defect and holds a false-reject rate; it can't know what it lets through.
Here the threshold is the one of the good scores that makes the mean of two rates smallest: of good images rejected, and
of generated defects let through. Nothing of it was seen on real defects: these may score otherwise, and then so does
the rate at which they escape. The same scores give an AUROC, by which one may choose between runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from train.data.batches import load_images
from train.data.left_out import remember
from train.data.samples import DataError
from train.durable import write_text
from train.fit_threshold import ThresholdError, Thresholds
from train.metrics.auroc import auroc, rank
from train.metrics.intervals import clopper_pearson, exceedance_interval, percent
from train.progress import Work
from train.quality.image_sets import open_image_set
from train.run import TrainedRun, open_run, read_held_out, score_all

LEAST_DEFECTS = 4


@dataclass(frozen=True)
class Refit:
    """New thresholds, and how the detector tells held-out good images from generated defects."""

    thresholds: Thresholds
    before: float | None  # the image threshold that was there
    n_defects: int = 0
    auroc: float | None = None
    escapes: int = 0  # generated defects at or below the threshold

    def as_json(self) -> dict[str, Any]:
        return {
            "thresholds": self.thresholds.model_dump(),
            "image_threshold_before": self.before,
            "n_generated_defects": self.n_defects,
            "auroc_on_generated_defects": self.auroc,
            "escapes_of_generated_defects": self.escapes,
        }

    def sentences(self) -> list[str]:
        lines = [self.thresholds.rule]
        if self.auroc is not None:
            lines.append(
                f"AUROC of {self.thresholds.n_held_out} held-out good images against {self.n_defects} generated "
                f"defects: {self.auroc:.3f}. It says which of two runs to prefer, if real defects are like these."
            )
        if self.before is not None:
            lines.append(f"The image threshold was {self.before:.6g} and is {self.thresholds.image:.6g}.")
        return lines


def refit(folder: Path, defects: Path | None) -> Refit:
    """Fits the thresholds of a run anew and writes RUN/thresholds.json.

    Raises:
        RunError, DataError, ImageError, ThresholdError: what is wrong with the run, the folder or the scores.
    """
    if defects is not None:
        images = open_image_set(defects)
        paths = [path for name, of_class in images.by_class.items() if name != "good" for path in of_class]
        if len(paths) < LEAST_DEFECTS:
            raise DataError(
                f"{defects} holds {len(paths)} generated defects; at least {LEAST_DEFECTS} are needed to fit a "
                "threshold. Synthesise more."
            )
    run = open_run(folder)
    before = run.thresholds.image if run.thresholds else None
    thresholds = run.fit_thresholds()
    if defects is None:
        result = Refit(thresholds, before)
    else:
        with Work("reading generated defects", len(paths)) as work:
            drawn = load_images(paths, run.preprocessing.model_copy(update={"crop": None}), work.done)
        result = between(run, thresholds, drawn, before)
    if defects is not None:
        remember(defects, folder)
    write_text(folder / "thresholds.json", result.thresholds.model_dump_json(indent=2))
    return result


def between(run: TrainedRun, thresholds: Thresholds, defects: np.ndarray, before: float | None) -> Refit:
    """`thresholds`, its image threshold moved; the pixel threshold stays."""
    good_images, _ = read_held_out(run)
    with Work("scoring", len(good_images) + len(defects)) as work:
        good, _ = score_all(run, good_images, work.done)
        bad, _ = score_all(run, defects, work.done)
    image, rule, position = image_threshold(good, bad)
    n = len(good)
    fitted = thresholds.model_copy(
        update={
            "image": image,
            "supported_false_reject_rate": (n + 1 - position) / (n + 1),
            "false_reject_rate_interval": exceedance_interval(position, n),
            "rule": f"{rule} {_pixel_rule(thresholds.rule)}",
        }
    )
    separated = auroc(rank(np.concatenate([good, bad]), np.repeat([False, True], [n, len(bad)])))
    return Refit(fitted, before, len(bad), separated, int((bad <= image).sum()))


def image_threshold(good: Float[np.ndarray, " n"], bad: Float[np.ndarray, " m"]) -> tuple[float, str, int]:
    """The threshold, a sentence about it, and which of the sorted good scores it is, from 1.

    ThresholdError where scores are not finite or no good score is above 0.
    """
    if not (np.isfinite(good).all() and np.isfinite(bad).all()):
        raise ThresholdError("Some scores are not finite numbers. The detector is broken: look at its training log.")
    ordered = np.sort(good)
    n, m = len(good), len(bad)
    rejected = n - np.searchsorted(ordered, ordered, side="right")  # good ones above each
    escaped = np.searchsorted(np.sort(bad), ordered, side="right")  # defects at or below it
    cost = np.where(ordered > 0, rejected / n + escaped / m, np.inf)
    if not np.isfinite(cost).any():
        raise ThresholdError("All held-out good images score 0, which cannot be a threshold.")
    best = n - 1 - int(np.argmin(cost[::-1]))  # of equals the highest, which rejects fewest
    position = n - int(rejected[best])
    low, high = clopper_pearson(int(rejected[best]), n)
    rule = (
        f"The image threshold was fitted with generated defects: of the scores of {n} held-out good images it is the "
        f"one with the smallest mean of false rejects, {percent(float(rejected[best] / n))} of these images, and of "
        f"escapes, {percent(float(escaped[best] / m))} of {m} generated defects. It was chosen on these images, so "
        f"both rates flatter; the false-reject rate counted so lies between {percent(low)} and {percent(high)} with "
        "95 % confidence. No real defect was seen."
    )
    return float(ordered[best]), rule, position


def _pixel_rule(rule: str) -> str:
    """What a rule says of the pixel threshold and after it."""
    return rule[rule.index("The pixel threshold") :]
