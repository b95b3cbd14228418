"""Where a defect may lie: a user's words to the pixels of an image as it was recorded, before crop and resizing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from edge_agent.preprocess import ImageError, read_mask
from train.config import ConfigError
from train.synthesis.foreground import find_foreground

Pixels = Bool[np.ndarray, "h w"]
Image = UInt8[np.ndarray, "h w 3"]
FindPart = Callable[[Image], Pixels]

KINDS = (
    "anywhere (on the part, which is found against its background), image (the whole of it: textures), spot[:SHARE] (a "
    "round place on the part, another in each image), box:x,y,width,height, polygon:x,y;x,y;x,y or mask:FILE"
)
SPOT = 0.05  # of the part's pixels
ELLIPSE = (0.5, 2.0)  # how much longer than wide a spot may be


@dataclass(frozen=True)
class Region:
    """One answer to where; `text` is as the user wrote it. Shapes in pixels of the upright frame."""

    kind: str  # anywhere, image, spot, box, polygon or mask
    text: str
    numbers: tuple[float, ...] = ()
    mask: Pixels | None = None

    @property
    def follows_the_part(self) -> bool:
        """Whether it needs the part to be found in each image."""
        return self.kind in ("anywhere", "spot")

    def fits(self, width: int, height: int) -> str | None:
        """None, or what is wrong with it in an image of that size: a part of a sentence."""
        if self.kind == "box":
            x, y, w, h = self.numbers
            inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
        elif self.kind == "polygon":
            corners = zip(self.numbers[::2], self.numbers[1::2], strict=True)
            inside = all(0 <= x <= width and 0 <= y <= height for x, y in corners)
        elif self.mask is not None:
            inside = self.mask.shape == (height, width)
        else:
            return None
        return None if inside else f"the region {self.text} does not fit the image, which is {width} x {height} pixels"

    def pixels(self, image: Image, random: np.random.Generator, find_part: FindPart = find_foreground) -> Pixels:
        """True where it is. NoForeground where the part has to be found and can't be.

        The same random stream gives the same pixels.
        """
        height, width = image.shape[:2]
        if self.kind == "image":
            return np.ones((height, width), bool)
        if self.mask is not None:
            return self.mask
        if self.kind == "box":
            x, y, w, h = (int(number) for number in self.numbers)
            found = np.zeros((height, width), bool)
            found[y : y + h, x : x + w] = True
            return found
        if self.kind == "polygon":
            points = np.array(self.numbers, np.float64).reshape(-1, 2).round().astype(np.int32)
            drawn: np.ndarray = cv2.fillPoly(np.zeros((height, width), np.uint8), [points], 1)
            return drawn.astype(bool)
        part = find_part(image)
        return part if self.kind == "anywhere" else _spot(part, self.numbers[0], random)


def _spot(part: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """An ellipse of that share of the part, anywhere on it and turned anyhow; what reaches beyond the part is cut."""
    rows, columns = np.nonzero(part)
    centre = int(random.integers(len(rows)))
    longer = math.sqrt(random.uniform(*ELLIPSE))
    radius = math.sqrt(share * len(rows) / math.pi)
    axes = max(round(radius * longer), 1), max(round(radius / longer), 1)
    drawn = np.zeros(part.shape, np.uint8)
    cv2.ellipse(drawn, (int(columns[centre]), int(rows[centre])), axes, float(random.uniform(0, 180)), 0, 360, 1, -1)
    spot: Pixels = (drawn > 0) & part
    return spot


def parse_region(text: str) -> Region:
    """ConfigError for what is no region, a mask that can't be read or is black, a box or polygon without area."""
    kind, _, rest = text.strip().partition(":")
    kind = kind.lower()
    if kind in ("anywhere", "image") and not rest:
        return Region(kind, text)
    if kind == "spot":
        share = _numbers(text, rest, 1)[0] if rest else SPOT
        if not 0 < share <= 1:
            raise ConfigError(f"--region {text}: the share of the part must be above 0 and at most 1.")
        return Region(kind, text, (share,))
    if kind == "box":
        numbers = _numbers(text, rest, 4)
        if any(number != int(number) for number in numbers) or min(numbers[2:]) < 1:
            raise ConfigError(f"--region {text}: write box:x,y,width,height in whole pixels, width and height above 0.")
        return Region(kind, text, numbers)
    if kind == "polygon":
        corners = [_numbers(text, corner, 2) for corner in rest.split(";")]
        if len(corners) < 3:
            raise ConfigError(f"--region {text}: a polygon has three corners or more: polygon:10,10;90,10;50,80.")
        return Region(kind, text, tuple(number for corner in corners for number in corner))
    if kind == "mask" and rest:
        try:
            mask = read_mask(Path(rest))
        except ImageError as error:
            raise ConfigError(f"--region {text}: {error}") from None
        if not mask.any():
            raise ConfigError(f"--region {text}: it is black everywhere. Paint white where a defect may lie.")
        return Region(kind, text, (), mask)
    raise ConfigError(f"--region {text} is not known. There are {KINDS}.")


def _numbers(text: str, cells: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(cell) for cell in cells.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ConfigError(
            f"--region {text}: {cells or 'nothing'} is not {count} number{'s' * (count > 1)}. It may be {KINDS}."
        )
    return numbers
