"""Judges a detector on a product's test images: metrics.json, and all that the report draws.

Knows neither JAX nor ONNX: `evaluate` is given something that scores a batch, so the run and the bundle made of it are
judged by the same code. Images pass through `edge_agent.preprocess`, as on the line.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from edge_agent.preprocess import ImageError, Preprocessing, prepare, prepare_mask, read_image, read_mask
from train.data.folder import GOOD, DataError, Dataset, Sample, digest, shown
from train.durable import write_text
from train.fit_threshold import Thresholds
from train.metrics.aupro import FPR_LIMIT, aupro, count_regions
from train.metrics.auroc import Curve, auroc, average_precision, f1_max, rank, roc_curve
from train.metrics.intervals import clopper_pearson

# uint8 [n, h, w, 3] at model size to raw image scores [n] and raw anomaly maps [n, h, w]
ScoreBatch = Callable[[np.ndarray], tuple[Any, Any]]
Source = Literal["test", "held_out", "stained"]

STAIN = "stain (drawn)"  # the label of held-out images that a stain was drawn on
ROC_POINTS = 2000  # of the pixel curve, which has as many corners as there are defective pixels


class EvaluationError(RuntimeError):
    """The detector gave something that is no score; the message says for which image."""


@dataclass(frozen=True)
class About:
    """What is evaluated; goes into metrics.json as it is, but for the mask."""

    product: str
    system: str
    scoring: str
    seed: int
    config_digest: str
    versions: Mapping[str, str]
    judged: Bool[np.ndarray, "h w"] | None = field(default=None, compare=False)  # the run's mask, for the report


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Good training images, at model size, that only the thresholds were fitted to; and each again with a stain."""

    images: UInt8[np.ndarray, "n h w 3"]
    names: tuple[str, ...]
    stained: UInt8[np.ndarray, "n h w 3"]


class _Part(NamedTuple):
    name: str
    label: str
    source: Source


@dataclass(frozen=True)
class ImageRecord:
    """The verdict on one image."""

    name: str  # path below the data folder
    label: str  # "good", the type of defect, or STAIN
    source: Source
    is_good: bool
    score: float  # raw
    verdict: Literal["pass", "reject"]

    @property
    def escaped(self) -> bool:
        return not self.is_good and self.verdict == "pass"

    @property
    def false_reject(self) -> bool:
        return self.is_good and self.verdict == "reject"


@dataclass(frozen=True, eq=False)
class Picture:
    """One image as the detector saw it."""

    record: ImageRecord
    image: UInt8[np.ndarray, "h w 3"]
    anomaly_map: Float[np.ndarray, "h w"]  # raw
    mask: Bool[np.ndarray, "h w"] | None  # None: not known


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found. `records` are the test images, then held-out ones, then the same with stains."""

    metrics: dict[str, Any]  # as metrics.json holds it
    about: About
    thresholds: Thresholds
    records: tuple[ImageRecord, ...]
    image_roc: Curve | None
    pixel_roc: Curve | None
    anomaly_maps: Float[np.ndarray, "n h w"]  # raw, one for each record
    _samples: tuple[Sample, ...]
    _preprocessing: Preprocessing
    _held_out: HeldOut | None

    def picture(self, index: int) -> Picture:
        """The image of `records[index]`, read again from the disk if it is a test image."""
        record, anomaly_map = self.records[index], self.anomaly_maps[index]
        if index < len(self._samples):
            sample = self._samples[index]
            image = prepare(read_image(sample.path), self._preprocessing)
            return Picture(record, image, anomaly_map, _mask(sample, self._preprocessing))
        assert self._held_out is not None
        which = (index - len(self._samples)) % len(self._held_out.images)
        good = self._held_out.images[which]
        image = good if record.is_good else self._held_out.stained[which]
        return Picture(record, image, anomaly_map, np.any(image != good, axis=-1))


def evaluate(
    score_batch: ScoreBatch,
    dataset: Dataset,
    preprocessing: Preprocessing,
    thresholds: Thresholds,
    about: About,
    *,
    held_out: HeldOut | None = None,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Scores `dataset.test`, and `held_out` with and without stains where it is given.

    `score_batch` always gets `batch_size` images: the last batch is filled up, so that it is compiled once. Anomaly
    maps are kept, 256 KiB per image of 256 x 256, because exact pixel metrics need them all; images are not.
    `on_progress(done, total)` counts images.

    Raises DataError before anything is scored if an image or a mask can't be used, EvaluationError for scores that are
    not finite or negative.
    """
    _check_files(dataset, preprocessing)
    n_test = len(dataset.test)
    if n_test == 0 and held_out is None:
        raise DataError(
            f"{shown(dataset.root)} holds no test images, and there are no held-out ones. Put defective parts in "
            "test/<type of defect>, or train with more good images."
        )
    parts = [_Part(shown(os.path.relpath(s.path, dataset.root)), shown(s.label), "test") for s in dataset.test]
    if held_out:
        parts += [_Part(shown(name), GOOD, "held_out") for name in held_out.names]
        parts += [_Part(shown(name), STAIN, "stained") for name in held_out.names]

    def images() -> Iterator[np.ndarray]:
        for sample in dataset.test:
            yield prepare(read_image(sample.path), preprocessing)
        if held_out:
            yield from held_out.images
            yield from held_out.stained

    size = preprocessing.height, preprocessing.width
    scores, maps = _score(score_batch, images(), [part.name for part in parts], size, batch_size, on_progress)
    records = tuple(
        ImageRecord(*part, part.label == GOOD, score, "reject" if score > thresholds.image else "pass")
        for part, score in zip(parts, scores.tolist(), strict=True)
    )
    defective = np.array([not sample.is_good for sample in dataset.test], bool)
    image_figures, image_roc = _image_figures(scores[:n_test], defective)
    pixel_figures, pixel_roc = _pixel_figures(maps[:n_test], dataset.test, preprocessing)
    metrics = {
        "product": about.product,
        "system": about.system,
        "scoring": about.scoring,
        "seed": about.seed,
        "config_digest": about.config_digest,
        "data_digest": digest(dataset),
        "versions": dict(about.versions),
        **image_figures,
        **pixel_figures,
        **_threshold_figures(thresholds),
        **_line_figures(records, thresholds),
    }
    return Evaluation(
        metrics, about, thresholds, records, image_roc, pixel_roc, maps, dataset.test, preprocessing, held_out
    )


def _check_files(dataset: Dataset, preprocessing: Preprocessing) -> None:
    """Reads every file once, so that nothing is half evaluated."""
    for sample in dataset.test:
        try:
            image = read_image(sample.path)
            prepare(image, preprocessing)  # the crop may reach beyond this frame
            mask = read_mask(sample.mask) if sample.mask else np.zeros(image.shape[:2], bool)
        except ImageError as error:
            raise DataError(str(error)) from error
        if sample.mask and mask.shape != image.shape[:2]:
            raise DataError(
                f"{shown(sample.mask)} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is "
                f"{image.shape[1]} x {image.shape[0]}. A mask must have the size of its image: draw it again."
            )


def _mask(sample: Sample, preprocessing: Preprocessing) -> Bool[np.ndarray, "h w"] | None:
    if sample.is_good:
        return np.zeros((preprocessing.height, preprocessing.width), bool)
    return prepare_mask(read_mask(sample.mask), preprocessing) if sample.mask else None


def _score(
    score_batch: ScoreBatch,
    images: Iterable[np.ndarray],
    names: Sequence[str],
    size: tuple[int, int],
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n h w"]]:
    """Image scores in float64, maps in float32."""
    n, remaining = len(names), iter(images)
    scores, maps = np.empty(n, np.float64), np.empty((n, *size), np.float32)
    for start in range(0, n, batch_size):
        batch = list(islice(remaining, batch_size))
        end = start + len(batch)
        filled = np.stack(batch + [batch[-1]] * (batch_size - len(batch)))
        batch_scores, batch_maps = score_batch(filled)
        scores[start:end] = np.asarray(batch_scores)[: len(batch)]
        maps[start:end] = np.asarray(batch_maps)[: len(batch)]
        for index in range(start, end):
            _check_scores(names[index], scores[index], maps[index])
        on_progress(end, n)
    return scores, maps


def _check_scores(name: str, score: float, anomaly_map: np.ndarray) -> None:
    # The minimum of an array with a NaN is NaN, and no comparison with NaN is true.
    for what, low, high in (("image", score, score), ("pixel", anomaly_map.min(), anomaly_map.max())):
        if not (low >= 0 and high < np.inf):
            raise EvaluationError(
                f"The {what} scores of {name} lie between {low:.6g} and {high:.6g}; they must be finite and not "
                "negative. The detector is broken: look at its training log and train again."
            )


def _image_figures(scores: np.ndarray, defective: np.ndarray) -> tuple[dict[str, Any], Curve | None]:
    ranking = rank(scores, defective)
    best = f1_max(ranking)
    return {
        "image_auroc": auroc(ranking),
        "image_aupr": average_precision(ranking),
        "image_f1_max": best.value if best else None,
        "image_f1_max_threshold": best.threshold if best else None,
    }, roc_curve(ranking)


def _pixel_figures(
    maps: np.ndarray, samples: Sequence[Sample], preprocessing: Preprocessing
) -> tuple[dict[str, Any], Curve | None]:
    """Of good images and defective ones with a mask; a defective image without one says nothing about its pixels."""
    known = [index for index, sample in enumerate(samples) if sample.is_good or sample.mask]
    masks = np.zeros((len(known), *maps.shape[1:]), bool)
    for mask, index in zip(masks, known, strict=True):
        mask[:] = _mask(samples[index], preprocessing)
    if len(known) < len(samples):
        maps = maps[known]
    ranking = rank(maps, masks)  # one sort for all four
    curve = roc_curve(ranking)
    return {
        "pixel_auroc": auroc(ranking),
        "pixel_aupr": average_precision(ranking),
        "aupro": aupro(ranking, maps, masks),
        "aupro_fpr_limit": FPR_LIMIT,
        "n_pixel_images": len(known) if curve else 0,
        "n_regions": count_regions(masks),
    }, _thinned(curve) if curve else None


def _thinned(curve: Curve) -> Curve:
    """At most ROC_POINTS points, evenly along the curve's own length."""
    along = np.concatenate([[0], np.cumsum(sum(np.abs(np.diff(rates)) for rates in curve))])
    keep = np.unique(np.searchsorted(along, np.linspace(0, along[-1], ROC_POINTS)).clip(max=along.size - 1))
    return Curve(curve.false_positive_rate[keep], curve.true_positive_rate[keep])


def _threshold_figures(thresholds: Thresholds) -> dict[str, Any]:
    fit = thresholds.model_dump(mode="json")
    return {"threshold": fit.pop("image"), "pixel_threshold": fit.pop("pixel"), "threshold_fit": fit}


def _line_figures(records: Sequence[ImageRecord], thresholds: Thresholds) -> dict[str, Any]:
    """What the thresholds would mean on the line: false rejects, escapes, and stains found."""
    test = [record for record in records if record.source == "test"]
    stained = [record for record in records if record.source == "stained"]
    n_normal = sum(record.is_good for record in test)
    false_rejects = sum(record.false_reject for record in test)
    if n_normal:
        rate, interval = false_rejects / n_normal, clopper_pearson(false_rejects, n_normal)
    else:  # counting the images that the threshold was fitted on would flatter; the fit itself says what to expect
        rate, interval = thresholds.supported_false_reject_rate, thresholds.false_reject_rate_interval
    n_per_defect = dict(sorted(Counter(record.label for record in test if not record.is_good).items()))
    escapes = {label: sum(record.escaped for record in test if record.label == label) for label in n_per_defect}
    n_defective, n_escaped, detected = sum(n_per_defect.values()), sum(escapes.values()), len(stained)
    detected -= sum(record.escaped for record in stained)
    return {
        "n_normal": n_normal,
        "n_defective": n_defective,
        "false_rejects": false_rejects if n_normal else None,
        "false_reject_rate": rate,
        "false_reject_rate_interval": list(interval),
        "false_reject_rate_from": "test images" if n_normal else "the threshold's fit on held-out images",
        "n_per_defect": n_per_defect,
        "escapes": escapes,
        "escape_rate": {label: escapes[label] / n for label, n in n_per_defect.items()},
        "escape_rate_interval": {label: list(clopper_pearson(escapes[label], n)) for label, n in n_per_defect.items()},
        "escape_rate_overall": n_escaped / n_defective if n_defective else None,
        "escape_rate_overall_interval": list(clopper_pearson(n_escaped, n_defective)) if n_defective else None,
        "n_stained_held_out": len(stained),
        "stain_detection_rate_held_out": detected / len(stained) if stained else None,
        "stain_detection_rate_held_out_interval": list(clopper_pearson(detected, len(stained))) if stained else None,
    }


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """JSON for scripts to read; what has no value is null, never NaN. The file is whole or not there."""
    write_text(path, json.dumps(_plain(metrics), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays to Python's, and numbers that JSON lacks to None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
