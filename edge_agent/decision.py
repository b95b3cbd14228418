"""Scores of one part to a verdict. `pass` has to be earned: every doubt is `unknown`, and says which."""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraReason
from edge_agent.engines import Scores
from edge_agent.parts.part import PartReason
from edge_agent.preprocess import Preprocessing

Verdict = Literal["pass", "reject", "unknown"]

# Why a verdict is `unknown`; closed, subscribers may switch on it. The camera gives its own, parts without a picture
# have theirs, and the pipeline adds engine_failed and a frame that is smaller than the model's crop (wrong_size);
# decide() gives the others.
UnknownReason = Literal[
    CameraReason,
    PartReason,
    "paused",  # a command has told the agent to judge no parts
    "engine_failed",  # the engine raised, or died
    "wrong_shape",  # it answered with something else than one score and one anomaly map
    "not_finite",  # NaN or infinity in a score or in the anomaly map
    "negative_score",  # scores are >= 0 by definition, so the model or the engine is broken
    "constant_map",  # every pixel has the same score: a dead or frozen output
]


@dataclass(frozen=True)
class Region:
    """One connected area (8 neighbours) above the pixel threshold, in the pixels that its Decision names."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1; x1 and y1 lie just outside, so width = x1 - x0
    area_px: int
    peak: float  # its largest anomaly map value; 1.0 is the pixel threshold
    peak_at: tuple[int, int]  # x, y
    centroid: tuple[float, float]  # x, y; whole numbers are pixel centres


@dataclass(frozen=True)
class Decision:
    """The verdict on one part. The regions explain it, but the image score alone decides."""

    verdict: Verdict
    reason: UnknownReason | None = None  # set exactly where the verdict is unknown
    size: tuple[int, int] | None = None  # width, height of the image whose pixels the regions are in
    regions: tuple[Region, ...] = field(default=())  # largest peak first, at most `max_regions`
    regions_total: int = 0  # how many there were


def unknown(reason: UnknownReason) -> Decision:
    """The decision on a part about which nothing can be said."""
    return Decision("unknown", reason)


def decide(
    scores: Scores,
    limit: float = 1.0,
    *,
    preprocessing: Preprocessing | None = None,
    frame_size: tuple[int, int] | None = None,
    max_regions: int = 16,
) -> Decision:
    """Judge one part: `pass` where every number is sound and image_score <= limit, `reject` where it is above.

    scores: of exactly one part. limit: what image_score is compared with (`set_threshold`), finite and > 0.
    preprocessing, frame_size (width, height): how the model's image came from the camera's frame. With both, regions
    are given in pixels of the whole upright frame, without them in pixels of the anomaly map.
    ValueError for a limit that is no limit: a part must not pass because someone set it to infinity.
    """
    if not 0 < limit < float("inf"):
        raise ValueError(f"The limit of the image score is {limit}; it must be a finite number above 0 (default 1.0).")
    if reason := _doubt(scores):
        return unknown(reason)
    anomaly_map = scores.anomaly_map[0]
    found, total = _regions(anomaly_map, max_regions)
    size = (anomaly_map.shape[1], anomaly_map.shape[0])
    if preprocessing is not None and frame_size is not None:
        found = tuple(_in_frame(region, size, preprocessing.crop or (0, 0, *frame_size)) for region in found)
        size = frame_size
    return Decision("pass" if scores.image_score[0] <= limit else "reject", None, size, found, total)


def _doubt(scores: Scores) -> UnknownReason | None:
    """Why these scores can't be trusted, or None.

    A constant map is doubted whatever its value, 0 included: a real part under a real camera has noise, so tens of
    thousands of equal float32 scores mean a dead network, a saturated output or a covered lens, and 0 would pass.
    """
    image_score, anomaly_map, raw_score = scores
    if image_score.shape != (1,) or raw_score.shape != (1,) or anomaly_map.ndim != 3 or len(anomaly_map) != 1:
        return "wrong_shape"
    if not anomaly_map.size:
        return "wrong_shape"
    lowest, highest = anomaly_map.min(), anomaly_map.max()  # NaN goes through min and max
    if not np.isfinite([image_score[0], raw_score[0], lowest, highest]).all():
        return "not_finite"
    if min(image_score[0], raw_score[0], lowest) < 0:
        return "negative_score"
    if lowest == highest and anomaly_map.size > 1:
        return "constant_map"
    return None


def _regions(anomaly_map: np.ndarray, max_regions: int) -> tuple[tuple[Region, ...], int]:
    """The regions with the largest peaks, in map pixels, and how many there are in all."""
    above = anomaly_map > 1.0
    if not above.any():
        return (), 0
    left, top, columns, rows = cv2.boundingRect(above.view(np.uint8))  # a good part has a few pixels: look there only
    window = (slice(top, top + rows), slice(left, left + columns))
    above = np.ascontiguousarray(above[window])
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(above.view(np.uint8), connectivity=8)
    at = np.flatnonzero(above)
    label, value = labels.ravel()[at], anomaly_map[window].ravel()[at]
    peaks = np.zeros(count, np.float32)
    np.maximum.at(peaks, label, value)
    is_peak = value == peaks[label]
    peak_label, first = np.unique(label[is_peak], return_index=True)  # every label but 0, in order
    peak_at = at[is_peak][first]
    regions = []
    for i in np.argsort(-peaks[peak_label], kind="stable")[:max_regions]:
        x, y, width, height, area = map(int, stats[i + 1])
        x, y = left + x, top + y
        peak_y, peak_x = divmod(int(peak_at[i]), columns)
        centroid = (left + float(centroids[i + 1][0]), top + float(centroids[i + 1][1]))
        peak = (left + peak_x, top + peak_y)
        regions.append(Region((x, y, x + width, y + height), area, float(peaks[i + 1]), peak, centroid))
    return tuple(regions), count - 1


def _in_frame(region: Region, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Region:
    """A region in map pixels of `size` (width, height), given in pixels of the frame that `crop` was cut from."""
    x, y, width, height = crop
    columns, rows = size
    x0, y0, x1, y1 = region.box
    peak_x, peak_y = region.peak_at
    centre_x, centre_y = region.centroid
    return Region(
        # rounded outwards, so that the box never cuts what it shows; -(-a // b) is a / b rounded up
        box=(x + x0 * width // columns, y + y0 * height // rows, x - -x1 * width // columns, y - -y1 * height // rows),
        area_px=max(1, round(region.area_px * width * height / (columns * rows))),
        peak=region.peak,
        peak_at=(x + (2 * peak_x + 1) * width // (2 * columns), y + (2 * peak_y + 1) * height // (2 * rows)),
        centroid=(x + (centre_x + 0.5) * width / columns - 0.5, y + (centre_y + 0.5) * height / rows - 0.5),
    )
