"""A mask of what a run judges: true where it does, at model size. RUN/mask.png holds it, white where true."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from edge_agent.preprocess import ImageError, Preprocessing, inspect_image, prepare_mask, read_mask
from train.config import ConfigError
from train.data.folder import Sample
from train.durable import write_file

Mask = Bool[np.ndarray, "h w"]

MASK_FILE = "mask.png"


def load_mask(path: Path, preprocessing: Preprocessing, samples: Iterable[Sample], *, cell: int) -> Mask:
    """The user's file, cropped and resized as the images are.

    `cell` is the side in pixels of the coarsest thing that a detector judges. Raises ConfigError for a file that is no
    mask, is not of the images' size or leaves less than a cell to judge.
    """
    remedy = "A mask is an image as large as the camera's: white where parts are judged, black elsewhere."
    try:
        mask = read_mask(path)
        for sample in samples:
            facts = inspect_image(sample.path.read_bytes(), str(sample.path))
            if (facts.height, facts.width) != mask.shape:
                raise ConfigError(
                    f"mask is {path} with {mask.shape[1]} x {mask.shape[0]} pixels, but {sample.path} has "
                    f"{facts.width} x {facts.height}. {remedy}"
                )
        judged = prepare_mask(mask, preprocessing)
    except ImageError as error:
        raise ConfigError(f"mask can't be read: {error} {remedy}") from None
    if not judged.any():
        where = " inside the crop" if mask.any() else ""
        raise ConfigError(f"mask is {path}, which is black everywhere{where}: nothing is left to judge. {remedy}")
    if (left := int(judged.sum())) < cell**2:
        raise ConfigError(
            f"mask is {path}, which leaves {left} of {judged.size} pixels at model size to judge, less than one cell "
            f"of {cell} x {cell}. Make its white area larger, or crop to it."
        )
    return judged


def write_mask(path: Path, mask: Mask) -> None:
    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    assert done
    write_file(path, lambda file: file.write(data.tobytes()))
