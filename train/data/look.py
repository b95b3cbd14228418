"""One sample's files, looked at once: what the check of a whole set then compares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_agent.preprocess import MAX_FILE_BYTES, ImageError, ImageFacts, inspect_image, read_image, read_mask
from train.data.samples import Sample, shown

THUMBNAIL = 16  # pixels a side: the part's place, shape and colour, without its texture


@dataclass(frozen=True)
class Look:
    """An image that could not be read has a problem and none of the rest."""

    sample: Sample
    problem: str | None = None
    problem_kind: str = ""  # one word, for scripts: unreadable, truncated, 16-bit, cmyk, animated, ...
    width: int = 0  # upright
    height: int = 0
    orientation: int = 1  # Exif
    grey: bool = False  # all three channels are equal everywhere
    blank: bool = False  # one colour all over
    content: str = ""  # digest of the decoded pixels: the same picture in another file has the same
    thumbnail: np.ndarray | None = None  # uint8 [THUMBNAIL, THUMBNAIL, 3]
    mask_problem: str | None = None
    mask_size: tuple[int, int] | None = None  # width, height
    mask_pixels: int = 0  # that it marks


def look_at(sample: Sample) -> Look:
    """Decode an image and its mask. Never raises for what a file holds."""
    try:
        image = read_image(sample.path)
    except ImageError as error:
        return Look(sample, problem=one_line(error), problem_kind=_kind(sample.path))
    facts = _facts(sample.path)
    height, width = image.shape[:2]
    mask_problem, mask = None, None
    if sample.mask:
        try:
            mask = read_mask(sample.mask)
        except ImageError as error:
            mask_problem = one_line(error)
    return Look(
        sample,
        width=width,
        height=height,
        orientation=facts.orientation,
        grey=bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()),
        blank=bool((image == image[0, 0]).all()),
        content=_content(image),
        thumbnail=cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
        mask_problem=mask_problem,
        mask_size=None if mask is None else (mask.shape[1], mask.shape[0]),
        mask_pixels=0 if mask is None else int(mask.sum()),
    )


def one_line(error: Exception) -> str:
    return shown(str(error))


def _content(image: np.ndarray) -> str:
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)  # without a copy: an image may have 300 MB
    return digest.hexdigest()


def _facts(path: Path) -> ImageFacts:
    try:
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            return inspect_image(path.read_bytes(), path.name)
    except OSError:  # gone since it was decoded
        pass
    return ImageFacts()


def _kind(path: Path) -> str:
    facts = _facts(path)
    if facts.truncated:
        return "truncated"
    if facts.frames > 1:
        return "animated"
    if facts.bit_depth > 8:
        return "16-bit"
    return "cmyk" if facts.color == "cmyk" else "unreadable"
