"""Encoded bytes to the uint8 array a model sees: decode, crop, resize.

The one implementation for training, export and the line; normalisation lies inside the graph. What a file's header
must say before it is decoded is in `image_header.py`.
"""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, Field, model_validator

from edge_agent.image_header import IMAGE_SUFFIXES, MAX_PIXELS, ImageFacts, inspect_image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageError",
    "ImageFacts",
    "Preprocessing",
    "decode",
    "inspect_image",
    "prepare",
    "prepare_mask",
    "read_image",
    "read_mask",
]

MAX_FILE_BYTES = 512 * 2**20  # the largest allowed frame, stored without compression and with alpha, fits

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report a broken file, in one sentence


class ImageError(ValueError):
    """An image file that must not be used; the message says which, why and what to do."""


class Preprocessing(BaseModel, extra="forbid", frozen=True):
    """From the upright frame to the model's input: crop, then resize. The aspect ratio is not kept: crop for that."""

    width: int = Field(ge=1, le=16384)  # model size, pixels
    height: int = Field(ge=1, le=16384)
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the upright frame, before resizing
    # area: each new pixel is the mean of the old ones it covers (cv2.INTER_AREA), which keeps fine texture from turning
    # into moiré; where an axis grows, cv2.INTER_LINEAR. linear: cv2.INTER_LINEAR always.
    resize: Literal["area", "linear"] = "area"

    @model_validator(mode="after")
    def _crop_is_a_rectangle(self) -> "Preprocessing":
        if self.crop and (min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1):
            raise ValueError(
                f"crop is {list(self.crop)}; it must be [x, y, width, height] with x, y >= 0 and a size >= 1"
            )
        return self


def decode(data: bytes, name: str) -> np.ndarray:
    """uint8 [h, w, 3] RGB, upright (Exif orientation applied). Grey files get three equal channels.

    An alpha channel is dropped where it is opaque and refused where it isn't: what lies under a transparent pixel is
    not what its author saw. `name` is for the message. Raises ImageError for anything unreadable, truncated, over
    MAX_PIXELS, deeper than 8 bits, in CMYK, or of several frames. Damage inside a file of full length is seen in PNG,
    which has checksums, but not in the pixels of JPEG, WebP, BMP and TIFF, which have none.
    """
    facts = inspect_image(data, name)
    if facts.problem:
        raise ImageError(facts.problem)
    buffer = np.frombuffer(data, np.uint8)
    image = _imdecode(buffer, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(
            f"{name} can't be decoded, although its {(facts.format or '').upper()} header reads well. "
            "Copy or record it again."
        )
    if image.shape != (facts.height, facts.width, 3):
        raise ImageError(
            f"{name} decodes to {image.shape[1]} x {image.shape[0]} pixels, but its header says "
            f"{facts.width} x {facts.height}. Save it again as PNG."
        )
    if facts.alpha:
        unchanged = _imdecode(buffer, cv2.IMREAD_UNCHANGED)
        if unchanged is not None and unchanged.ndim == 3 and unchanged.shape[2] == 4 and unchanged[..., 3].min() < 255:
            raise ImageError(
                f"{name} has transparent pixels. Flatten it onto a background, then save it without alpha."
            )
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return rgb


def _imdecode(buffer: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        image: np.ndarray | None = cv2.imdecode(buffer, flags)
    except cv2.error:
        return None
    return image


def read_image(path: Path) -> np.ndarray:
    """uint8 [h, w, 3] RGB of a file, as `decode`. A file that can't be opened is an ImageError too."""
    try:
        if not path.is_file():  # a pipe or a device would block, or never end
            raise ImageError(f"{path} is missing or no plain file. Check that it still exists.")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise ImageError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed. Scale the image down.")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} can't be opened ({error.strerror}). Check its permissions.") from error
    return decode(data, str(path))


def prepare(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [h, w, 3] frame to uint8 [height, width, 3] at model size; the frame itself where nothing has to change."""
    image = _crop(image, preprocessing)
    height, width = image.shape[:2]
    size = (preprocessing.width, preprocessing.height)
    if (width, height) == size:
        return np.ascontiguousarray(image)
    shrinks = width >= size[0] and height >= size[1]
    method = cv2.INTER_AREA if preprocessing.resize == "area" and shrinks else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(image, size, interpolation=method)
    return resized


def read_mask(path: Path) -> np.ndarray:
    """bool [h, w]: where a channel exceeds 127. A file of dark values only (0 and 1, say) is an ImageError."""
    mask: np.ndarray = read_image(path).max(axis=2)
    if 0 < (brightest := int(mask.max())) <= 127:
        raise ImageError(
            f"{path} is no mask: its brightest value is {brightest}. Save defects as 255 and the rest as 0."
        )
    above: np.ndarray = mask > 127
    return above


def prepare_mask(mask: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """bool [h, w] at the frame's size to bool [height, width]: the pixel nearest to each new pixel's centre."""
    mask = np.ascontiguousarray(_crop(mask, preprocessing))
    size = (preprocessing.width, preprocessing.height)
    resized: np.ndarray = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.view(bool)


def _crop(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    if preprocessing.crop is None:
        return image
    x, y, width, height = preprocessing.crop
    if x + width > image.shape[1] or y + height > image.shape[0]:
        raise ImageError(
            f"The crop {list(preprocessing.crop)} (x, y, width, height) reaches beyond the frame of "
            f"{image.shape[1]} x {image.shape[0]} pixels. Check the camera's resolution, or train with another crop."
        )
    return image[y : y + height, x : x + width]
