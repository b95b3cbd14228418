"""Pictures that a run keeps, and grids of small images as one."""

import base64
import math
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Array, UInt8

from train.durable import write_file

PICTURES = "pictures"  # in the run folder
GAP = 2  # pixels between the images of a grid


def write_picture(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """RGB as PNG; whole or not there."""
    path.parent.mkdir(exist_ok=True)
    data = encoded(image)
    write_file(path, lambda file: file.write(data))


def encoded(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """RGB as the bytes of a PNG."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    assert done
    return data.tobytes()


def grid(images: UInt8[np.ndarray, "n h w 3"], columns: int | None = None) -> UInt8[np.ndarray, "h2 w2 3"]:
    """All images, row by row; as square as they allow, or of so many columns."""
    n, h, w, _ = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (h + GAP), number % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = image
    return sheet


def to_bytes(images: Array) -> UInt8[np.ndarray, "n h w 3"]:
    """Images in [-1, 1] of one or three channels as RGB."""
    pixels = np.round((np.clip(np.asarray(images), -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def as_address(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A data: address for a page."""
    return "data:image/png;base64," + base64.b64encode(encoded(image)).decode()
