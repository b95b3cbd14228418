"""The golden set: images with the float32 JAX model's answers, by which every engine on every device is judged.

Held-out good images and copies of them with a stain drawn on, never test images. Half of the set are the candidates
nearest the image threshold, where a verdict is most easily lost; the others are spread over the whole range of scores.
Where the precision can't tell a verdict from rounding, nearer than `undecided`, there is no golden image.
"""

from collections.abc import Callable
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from edge_agent.bundle import Golden
from export.detector import LineScorer
from export.errors import InputError
from export.precision.loss import Candidates
from train.data.noise import corrupt
from train.run import TrainedRun, read_held_out

GOLDEN_IMAGES = 16
MOST_GOOD = 32  # held-out images considered
LEAST_CANDIDATES = 32  # good and stained together
LEAST_DECIDED = 4  # golden images
STAIN_STREAM = 0x901D  # folded into the run's seed, apart from what training and evaluation draw


def score_candidates(
    run: TrainedRun, scorer: LineScorer, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Candidates:
    """Held-out images and stained copies, scored one by one as on the line; `on_progress(done, total)` counts them.

    Raises:
        InputError: the run has no held-out images.
    """
    good, _ = read_held_out(run)
    if not len(good):
        raise InputError(f"{run.folder} has no held-out images to check engines with. Train with more good images.")
    good = good[_evenly(len(good), min(len(good), MOST_GOOD))]
    stained = _stained(run, good, max(1, ceil((LEAST_CANDIDATES - len(good)) / len(good))))
    images = np.concatenate([good, stained])
    answers = []
    for index in range(len(images)):
        answers.append(scorer(images[index : index + 1]))
        on_progress(index + 1, len(images))
    image_score, anomaly_map, raw_score = (np.concatenate(values) for values in zip(*answers, strict=True))
    return Candidates(Golden(images, image_score, raw_score, anomaly_map), np.arange(len(images)) < len(good))


def golden_set(candidates: Candidates, undecided: float = 0.0) -> Golden:
    """16 of the candidates, none with a score nearer than `undecided` to the threshold.

    Raises:
        InputError: hardly any lies further away.
    """
    scores = candidates.answers.image_score
    decided = np.flatnonzero(np.abs(scores - 1.0) >= undecided)
    if len(decided) < min(LEAST_DECIDED, len(scores)):
        raise InputError(
            f"Of {len(scores)} held-out and stained images {len(scores) - len(decided)} score within {undecided:.1%} "
            "of the threshold, where verdicts in this precision are rounding; too few are left to check engines with. "
            "Take --precision fp32, or train a run that tells stains apart."
        )
    return candidates.at(decided[choose(scores[decided], candidates.is_good[decided])]).answers


def choose(scores: np.ndarray, is_good: np.ndarray, count: int = GOLDEN_IMAGES) -> np.ndarray:
    """Indices of the golden set among candidates with these normalised scores, ascending.

    Half are the nearest to 1.0; the rest are good and stained in equal parts as far as there are any, evenly spread
    over the order of their scores.
    """
    count = min(count, len(scores))
    near = np.argsort(np.abs(scores - 1.0), kind="stable")[: count // 2]
    rest = [np.setdiff1d(np.flatnonzero(kind), near) for kind in (is_good, ~is_good)]
    n_good = min(len(rest[0]), max((count - len(near)) // 2, count - len(near) - len(rest[1])))
    n_stained = count - len(near) - n_good
    spread = [
        kind[np.argsort(scores[kind], kind="stable")][_evenly(len(kind), n)]
        for kind, n in zip(rest, (n_good, n_stained), strict=True)
    ]
    return np.sort(np.concatenate([near, *spread]))


def _stained(run: TrainedRun, good: UInt8[np.ndarray, "n h w 3"], times: int) -> UInt8[np.ndarray, "m h w 3"]:
    """Every good image `times` times, each with a stain of its own."""
    key = jax.random.fold_in(jax.random.key(run.config.seed), STAIN_STREAM)
    copies = jnp.tile(jnp.asarray(good, jnp.float32) / 255, (times, 1, 1, 1))
    return np.asarray(jnp.round(corrupt(key, copies, "stain") * 255), np.uint8)


def _evenly(n: int, count: int) -> np.ndarray:
    """`count` of n places, from the first to the last."""
    return np.unique(np.linspace(0, n - 1, count).round().astype(int)) if count else np.zeros(0, int)
