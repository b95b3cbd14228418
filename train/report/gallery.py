"""The images worth looking at, worst first, and how they are drawn: part, anomaly map over it, ground truth."""

import base64
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from train.evaluate import Evaluation, ImageRecord, Picture

MOST_MISTAKES = 12  # shown of each kind; the count of all is said
LONGEST_SIDE = 288  # of a thumbnail, pixels
QUALITY = 80  # WebP
LIGHT, DARK = (86, 233, 233), (20, 20, 20)  # of outlines
HATCH = 16  # pixels from one stripe to the next
DARK_PART = 0.4  # of the colours, for pixel scores below the threshold


class Tile(NamedTuple):
    """One part; pictures are data: addresses."""

    record: ImageRecord
    score: float  # raw / threshold
    part: str
    overlay: str
    truth: str | None  # None: a good part has none, or it isn't known


class Group(NamedTuple):
    """Tiles under one heading."""

    heading: str
    note: str
    kind: str  # mistake, close or right: the page's colour
    tiles: tuple[Tile, ...]


class _Choice(NamedTuple):
    """A group to be drawn."""

    heading: str
    note: str
    kind: str
    indexes: list[int]  # of the evaluation's records


class Gallery(NamedTuple):
    """All groups that hold a tile, and the scale of their anomaly maps."""

    groups: tuple[Group, ...]
    scale_top: float  # pixel score / pixel threshold at the bright end of the colours
    scale_threshold: float  # where the pixel threshold lies on the scale, 0 to 1
    scale: str  # the colours, as a data: address


def draw_gallery(evaluation: Evaluation) -> Gallery:
    """Mistakes first, then what was close, then what is clear."""
    choices = [choice for choice in _choose(evaluation) if choice.indexes]
    pictures = {index: evaluation.picture(index) for choice in choices for index in choice.indexes}
    top = _scale_top([picture.anomaly_map / evaluation.thresholds.pixel for picture in pictures.values()])
    groups = [
        Group(heading, note, kind, tuple(_tile(pictures[index], evaluation, top) for index in indexes))
        for heading, note, kind, indexes in choices
    ]
    return Gallery(tuple(groups), top, DARK_PART, _web(_scale_bar(top)))


def _choose(evaluation: Evaluation) -> list[_Choice]:
    records = evaluation.records
    has_defects = any(not record.is_good for record in records if record.source == "test")
    has_good = any(record.is_good for record in records if record.source == "test")
    bad_source, good_source = "test" if has_defects else "stained", "test" if has_good else "held_out"

    def those(judge: Callable[[ImageRecord], bool], *, highest_first: bool) -> list[int]:
        found = [index for index, record in enumerate(records) if judge(record)]
        return sorted(found, key=lambda index: records[index].score, reverse=highest_first)

    missed = those(lambda r: r.source == bad_source and r.escaped, highest_first=False)
    rejected = those(lambda r: r.source == good_source and r.false_reject, highest_first=True)
    caught = those(lambda r: r.source == bad_source and not r.is_good and r.verdict == "reject", highest_first=False)
    passed = those(lambda r: r.source == good_source and r.is_good and r.verdict == "pass", highest_first=True)
    what = "Defective parts" if has_defects else "Drawn stains"
    close = caught[: 4 if len(caught) >= 8 else 2]
    clear = _one_of_each_type([index for index in reversed(caught) if index not in close], records)[:8]
    return [
        _Choice(
            "Defective parts that escape" if has_defects else "Drawn stains not found",
            _shown(missed, "lowest score first"),
            "mistake",
            missed[:MOST_MISTAKES],
        ),
        _Choice("Good parts rejected", _shown(rejected, "highest score first"), "mistake", rejected[:MOST_MISTAKES]),
        _Choice(f"{what} caught by the smallest margin", "The next to escape.", "close", close),
        _Choice("Good parts nearest to the threshold", "The next to be rejected.", "close", passed[:4]),
        _Choice(f"{what} caught most clearly", "Each type in turn.", "right", clear),
    ]


def _shown(indexes: Sequence[int], order: str) -> str:
    count = f"{MOST_MISTAKES} of {len(indexes)}" if len(indexes) > MOST_MISTAKES else f"All {len(indexes)}"
    return f"{count}, {order}." if len(indexes) > 1 else ""


def _one_of_each_type(indexes: Sequence[int], records: Sequence[ImageRecord]) -> list[int]:
    """In rounds, so that every type is seen before one is seen twice."""
    rounds: list[tuple[int, int]] = []
    seen: dict[str, int] = {}
    for index in indexes:
        label = records[index].label
        seen[label] = seen.get(label, 0) + 1
        rounds.append((seen[label], index))
    return [index for _, index in sorted(rounds, key=lambda entry: entry[0])]


def _scale_top(maps: Sequence[np.ndarray]) -> float:
    """The bright end: above nearly all pixels, and far enough above the threshold that it stays visible."""
    highest = [float(np.quantile(anomaly_map, 0.998)) for anomaly_map in maps]
    return float(np.clip(np.quantile(highest, 0.8), 2.0, 20.0)) if highest else 2.0


def _tile(picture: Picture, evaluation: Evaluation, top: float) -> Tile:
    record, mask = picture.record, picture.mask
    truth = None
    if not record.is_good and mask is not None:
        truth = _web(_with_contour(picture.image, mask))
    return Tile(
        record,
        record.score / evaluation.thresholds.image,
        _web(picture.image),
        _web(
            _overlay(
                picture.image, picture.anomaly_map / evaluation.thresholds.pixel, top, judged=evaluation.about.judged
            )
        ),
        truth,
    )


def _colours(normalised: Float[np.ndarray, "h w"], top: float) -> UInt8[np.ndarray, "h w 3"]:
    """Inferno in RGB: its dark part up to the pixel threshold (1.0), its bright part above, by ratio, up to `top`."""
    above = np.log(np.clip(normalised, 1, top)) / np.log(top)
    levels = np.where(normalised > 1, DARK_PART + (1 - DARK_PART) * above, DARK_PART * normalised)
    colours: np.ndarray = cv2.applyColorMap((255 * levels).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(colours[..., ::-1])


def _overlay(
    image: UInt8[np.ndarray, "h w 3"],
    normalised: Float[np.ndarray, "h w"],
    top: float,
    *,
    judged: Bool[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The part in grey; what is above the pixel threshold covers it, what is below tints it; hatched: not judged."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    opacity = np.where(normalised > 1, 0.9, 0.5 * np.clip(normalised, 0, 1))[..., None]
    mixed = (1 - opacity) * (0.8 * grey) + opacity * _colours(normalised, top)
    if judged is not None:
        stripe = np.add.outer(*(np.arange(side) for side in judged.shape)) % HATCH < HATCH // 4
        mixed = np.where((~judged & stripe)[..., None], (mixed + LIGHT) / 2, mixed)
    overlay: np.ndarray = mixed.astype(np.uint8)
    return overlay


def _with_contour(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "i j 3"]:
    """Thumbnail with the defect's outline, light on dark so that it shows on any part; drawn around, not over it."""
    outlined = _shrunk(image).copy()
    shape = (_shrunk(255 * mask.astype(np.uint8)) > 0).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    inner, light, dark = (cv2.dilate(shape, disc, iterations=n).astype(bool) for n in (1, 3, 4))
    outlined[dark & ~inner] = DARK
    outlined[light & ~inner] = LIGHT
    return outlined


def _scale_bar(top: float) -> UInt8[np.ndarray, "h w 3"]:
    """All colours in equal steps, the threshold DARK_PART of the way."""
    below, above = np.linspace(0, 1, round(256 * DARK_PART)), np.geomspace(1, top, round(256 * (1 - DARK_PART)))
    return _colours(np.tile(np.concatenate([below, above]), (8, 1)), top)


def _shrunk(image: np.ndarray) -> np.ndarray:
    """At most LONGEST_SIDE pixels high and wide."""
    height, width = image.shape[:2]
    if (longest := max(height, width)) <= LONGEST_SIDE:
        return image
    size = max(1, round(width * LONGEST_SIDE / longest)), max(1, round(height * LONGEST_SIDE / longest))
    smaller: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return smaller


def _web(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A WebP thumbnail as a data: address."""
    bgr = cv2.cvtColor(_shrunk(image), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"
