"""Tall images cut into three squares: the top, the one below it, and the bottom.

KolektorSDD2's pictures are some 230 x 640 pixels, and what takes squares would squeeze them. The authors of AdaBLDM cut
them so (sheet: "Evaluation protocol"). Two of the three may overlap. What is written is a set of its own, in class
folders, that generators, classifiers and detectors read like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from edge_agent.preprocess import ImageError, read_image, read_mask
from train.data import walk
from train.data.defect_set import DefectSample, DefectSet
from train.data.one_class import write_image
from train.data.samples import GOOD, DataError, shown

PLACES = ("top", "second", "bottom")


def rows_of(height: int, width: int) -> tuple[slice, ...]:
    """Of the squares, in the order of `PLACES`. ValueError for what is not more than twice as tall as wide."""
    if height <= 2 * width:
        raise ValueError(
            f"is {width} x {height} pixels. Three squares are cut of what is more than twice as tall as wide"
        )
    return slice(0, width), slice(width, 2 * width), slice(height - width, height)


def cut_squares(
    defects: DefectSet, out: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, int]:
    """Writes OUT/train/<class>/, OUT/test/<class>/ and OUT/ground_truth/<class>/; returns how many of each class.

    A square is labelled by its own part of the mask: what shows nothing of its picture's defect is good. Squares that
    are there already are kept, so the same call goes on after a stop.

    Raises:
        DataError: an image is not tall enough, a defective one has no mask or one of another size, two share a name,
            or OUT holds something else.
    """
    named = _named(defects)
    _check_out(out, named)
    counts: dict[str, int] = {}
    for done, (name, sample) in enumerate(named.items(), start=1):
        for label, place, image, mask in _squares(sample):
            side = f"{sample.split}/{label}"
            write_image(out / side / f"{name}_{place}.png", image)
            if label != GOOD:
                marked = np.repeat(mask[..., None], 3, axis=-1).astype(np.uint8) * 255
                write_image(out / "ground_truth" / label / f"{name}_{place}_mask.png", marked)
            counts[side] = counts.get(side, 0) + 1
        progress(done, len(named))
    return dict(sorted(counts.items()))


def _squares(
    sample: DefectSample,
) -> Iterator[tuple[str, str, UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]]:
    try:
        image = read_image(sample.path)
        if not sample.is_normal and sample.mask is None:
            raise ImageError(f"{shown(sample.path)} has no mask, so it isn't known which of its squares are good.")
        mask = np.zeros(image.shape[:2], bool) if sample.mask is None else read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            found = f"{mask.shape[1]} x {mask.shape[0]} pixels, but its image {image.shape[1]} x {image.shape[0]}"
            raise ImageError(f"{shown(sample.mask or '')} is {found}. Write it anew.")
        rows = rows_of(*image.shape[:2])
    except ImageError as error:
        raise DataError(str(error)) from None
    except ValueError as error:
        raise DataError(f"{shown(sample.path)} {error}. Crop it, or leave it out.") from None
    for place, at in zip(PLACES, rows, strict=True):
        yield sample.categories[0] if mask[at].any() else GOOD, place, image[at], mask[at]


def _named(defects: DefectSet) -> dict[str, DefectSample]:
    """By the stem of the image, which names its squares and their masks on both sides."""
    named: dict[str, DefectSample] = {}
    for sample in defects.samples:
        other = named.setdefault(sample.path.stem, sample)
        if other is not sample:
            raise DataError(
                f"{shown(sample.path)} and {shown(other.path)} have one name, and so would their squares. Rename one."
            )
    return named


def _check_out(out: Path, named: dict[str, DefectSample]) -> None:
    """That nothing else lies there: squares of other images, or of the same ones on the other side."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{shown(out)} is a file. Give --out a new folder.")
    for path in walk.images(out) if out.exists() else ():
        side, name = path.relative_to(out).parts[0], path.stem.removesuffix("_mask").rpartition("_")[0]
        sample = named.get(name)
        if sample is None or side not in (sample.split, "ground_truth"):
            raise DataError(f"{shown(path)} is no square of these images. Give --out a new folder.")
