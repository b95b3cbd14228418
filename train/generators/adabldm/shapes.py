"""Masks and trimaps of the user: what a defect looks like, or where it is and where the part.

Shape letters: h x w pixels of the image as it was recorded, s x s at model size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from edge_agent.preprocess import IMAGE_SUFFIXES, ImageError, Preprocessing, prepare_mask, read_image, read_mask
from train.config import ConfigError
from train.data.samples import file_digest, shown

Mask = Bool[np.ndarray, "s s"]

LEVELS = (0, 127, 255)  # of a trimap: background, the rest of the part, defect
NEAR = 24  # grey levels about each, that still are it
STRAY = 0.02  # of a trimap's pixels, that may lie between
PART, DEFECT = 64, 200  # grey levels from which a pixel is one of the part, one of the defect


@dataclass(frozen=True, eq=False)
class Shape:
    """One file, cropped and resized as images are."""

    name: str
    sha256: str
    height: int  # of the file
    width: int
    defect: Mask
    foreground: Mask | None = None  # of a trimap; None: that has to be found

    @property
    def size(self) -> str:
        return f"{self.width} x {self.height} pixels"


def read_shapes(path: Path, preprocessing: Preprocessing) -> tuple[Shape, ...]:
    """Masks, white where a defect is.

    Raises:
        ConfigError: names the file, says what is wrong with it.
    """
    return _read("--shape", path, _shape, preprocessing)


def read_trimaps(path: Path, preprocessing: Preprocessing) -> tuple[Shape, ...]:
    """Trimaps; without a pixel of the middle level the part is found as it is in any image.

    Raises:
        ConfigError: names the file, says what is wrong with it.
    """
    return _read("--trimap", path, _trimap, preprocessing)


def _read(
    option: str, path: Path, read: Callable[[Path, Preprocessing], Shape], preprocessing: Preprocessing
) -> tuple[Shape, ...]:
    try:
        shapes = tuple(read(file, preprocessing) for file in _files(option, path))
    except (ImageError, OSError) as error:
        raise ConfigError(f"{option}: {error}") from None
    for shape in shapes:
        if not shape.defect.any():
            raise ConfigError(
                f"{option}: of the defect in {shown(shape.name)} nothing is left at model size, {preprocessing.width} "
                f"x {preprocessing.height} pixels. Paint it white (255), and larger."
            )
    return shapes


def _files(option: str, path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(f"{option}: {shown(path)} holds no image. Name a mask, or a folder of them.")
    return files


def _shape(path: Path, preprocessing: Preprocessing) -> Shape:
    mask = read_mask(path)
    height, width = mask.shape
    return Shape(path.name, file_digest(path), height, width, prepare_mask(mask, preprocessing))


def _trimap(path: Path, preprocessing: Preprocessing) -> Shape:
    levels: UInt8[np.ndarray, "h w"] = read_image(path).max(axis=2)
    distance = np.min([np.abs(levels.astype(int) - level) for level in LEVELS], axis=0)
    if (stray := float((distance > NEAR).mean())) > STRAY:
        raise ConfigError(
            f"--trimap: {shown(path)} is no trimap: {stray:.0%} of its pixels are neither background (0) nor part "
            "(127) nor defect (255). Save it as PNG with these three levels."
        )
    defect, part = (prepare_mask(levels >= least, preprocessing) for least in (DEFECT, PART))
    has_part = bool((part & ~defect).any())
    height, width = levels.shape
    return Shape(path.name, file_digest(path), height, width, defect, part if has_part else None)
