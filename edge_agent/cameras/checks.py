"""What can be wrong with a live camera's picture, each with its reason. Pure functions on uint8 [h, w, 3] RGB.

All but `sharpness` and `same_picture` look at a sample of the pixels: a fraction of a millisecond for 5 megapixels.
"""

from dataclasses import dataclass, field
from statistics import median

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraReason
from edge_agent.cameras.settings import FrameChecksConfig

SAMPLED_ROWS = 240  # a frame's shorter side is thinned out to about so many pixels
BLACK_SHARE = 0.999  # a black frame has so large a share of dark pixels: a few hot ones don't make it a picture
SATURATED = 250  # grey level from which a channel counts as saturated
REFERENCE_FRAMES = 20  # how many sound frames tell what the camera looks like
GREY_CHROMA = 1.5  # mean distance of the channels, in grey levels, that decoders leave in a picture without colour
COLOURED_CHROMA = 4.0  # above this there is colour
DECISIVE_CAST = 10.0  # |red - blue| that every reference frame must have for swapped channels to be told


@dataclass(frozen=True)
class Trouble:
    """Why a frame must not be judged."""

    reason: CameraReason
    text: str  # what was found, without its camera: "is 640 x 480 pixels, ..."


@dataclass(frozen=True)
class Colour:
    """What a frame's colour comes to, in grey levels."""

    chroma: float  # mean over the pixels of the largest channel less the smallest
    cast: float  # mean red less mean blue; its sign turns when the two are swapped


def thin_out(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel of every n-th row, so that some SAMPLED_ROWS remain."""
    step = max(1, min(image.shape[:2]) // SAMPLED_ROWS)
    return np.ascontiguousarray(image[::step, ::step])


def brightest(sample: np.ndarray) -> np.ndarray:
    """[h, w]: the largest channel; far faster than a maximum over an axis of three."""
    red, green, blue = cv2.split(sample)
    largest: np.ndarray = cv2.max(cv2.max(red, green), blue)
    return largest


def darkest(sample: np.ndarray) -> np.ndarray:
    """[h, w]: the smallest channel."""
    red, green, blue = cv2.split(sample)
    smallest: np.ndarray = cv2.min(cv2.min(red, green), blue)
    return smallest


def dark_share(sample: np.ndarray, level: int) -> float:
    """Share of the pixels that no channel lifts above `level`."""
    return np.count_nonzero(brightest(sample) <= level) / sample[..., 0].size


def saturated_share(sample: np.ndarray) -> float:
    """Share of the pixels whose channels are all saturated."""
    return np.count_nonzero(darkest(sample) >= SATURATED) / sample[..., 0].size


def colour_of(sample: np.ndarray) -> Colour:
    chroma = cv2.mean(cv2.subtract(brightest(sample), darkest(sample)))[0]
    red, _, blue = cv2.mean(sample)[:3]
    return Colour(chroma, red - blue)


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of the grey picture: falls when it is out of focus or moved, rises with noise."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def same_picture(image: np.ndarray, other: np.ndarray) -> bool:
    """Equal in every pixel. A sensor's noise makes that impossible for two exposures; a few rows tell them apart."""
    few = slice(None, None, image.shape[0] // 8 + 1)
    if image.shape != other.shape or not np.array_equal(image[few], other[few]):
        return False
    return bool(np.array_equal(image, other))


def wrong_colour(colour: Colour, reference: list[Colour]) -> str | None:
    """What is wrong with a frame's colour beside that of earlier frames; None where nothing can be told."""
    if colour.chroma <= GREY_CHROMA and min(each.chroma for each in reference) >= COLOURED_CHROMA:
        return "is grey, and the camera gave colour before"
    if colour.chroma >= COLOURED_CHROMA and max(each.chroma for each in reference) <= GREY_CHROMA:
        return "has colours, and the camera gave grey pictures before"
    casts = [each.cast for each in reference]
    weakest = min(casts) if min(casts) > 0 else -max(casts)  # how decisive all of them are, in one direction
    sign = 1.0 if min(casts) > 0 else -1.0
    if weakest >= DECISIVE_CAST and sign * colour.cast <= -weakest / 2:
        return (
            f"has red less blue of {colour.cast:.0f} grey levels, and {sign * weakest:.0f} or more to that side "
            "before: red and blue seem to be swapped"
        )
    return None


@dataclass
class FrameChecks:
    """The limits of one camera, and what its first frames looked like; kept over reconnects, which is the point."""

    limits: FrameChecksConfig
    size: tuple[int, int] | None = None  # width, height; where it isn't configured, that of the first sound frame
    _colours: list[Colour] = field(default_factory=list)
    _sharpnesses: list[float] = field(default_factory=list)
    _last: np.ndarray | None = None
    _repeats: int = 0

    def look(self, image: np.ndarray) -> Trouble | None:
        """What is wrong with this frame by itself and beside the first ones. Sound frames become the reference."""
        limits, sample = self.limits, thin_out(image)
        height, width = image.shape[:2]
        if limits.size and self.size not in (None, (width, height)):
            assert self.size is not None
            text = f"is {width} x {height} pixels, and {self.size[0]} x {self.size[1]} are right"
            return Trouble("wrong_size", text)
        if limits.black_level is not None and dark_share(sample, limits.black_level) >= BLACK_SHARE:
            return Trouble("black", f"is black: nothing is brighter than grey level {limits.black_level}")
        if limits.over_exposed_share is not None and (share := saturated_share(sample)) >= limits.over_exposed_share:
            return Trouble("over_exposed", f"is over-exposed: {100 * share:.1f} % of the pixels are saturated")
        colour = colour_of(sample) if limits.color else None
        if colour and len(self._colours) == REFERENCE_FRAMES and (wrong := wrong_colour(colour, self._colours)):
            return Trouble("wrong_color", wrong)
        sharp = None if limits.sharpness_min is None else sharpness(image)
        if sharp is not None and (least := self._least_sharpness()) is not None and sharp < least:
            return Trouble("blurred", f"is blurred: its sharpness is {sharp:.1f}, at least {least:.1f} is right")
        self.size = self.size or (width, height)
        if colour and len(self._colours) < REFERENCE_FRAMES:
            self._colours.append(colour)
        if sharp is not None and len(self._sharpnesses) < REFERENCE_FRAMES:
            self._sharpnesses.append(sharp)
        return None

    def repeats(self, image: np.ndarray) -> int:
        """How often this very picture came before, without another one between. Keeps `image`."""
        same = self._last is not None and same_picture(image, self._last)
        self._repeats = self._repeats + 1 if same else 0
        self._last = image
        return self._repeats

    def _least_sharpness(self) -> float | None:
        """None: not known yet."""
        limit = self.limits.sharpness_min
        if limit != "measured":
            return limit
        enough = len(self._sharpnesses) == REFERENCE_FRAMES
        return self.limits.sharpness_share * median(self._sharpnesses) if enough else None
