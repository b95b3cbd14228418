"""Defects cut out of generated images, to be pasted on good ones inside the training step.

What `synthesize` writes is enough: an image and its soft mask are a defect with its border; the rest of the image,
which is a good part, is left behind. So any good image can be given any of the defects, at the place where it was
drawn.
Shape letters: b defects in the bank, n images, h x w pixels, c channels.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from edge_agent.preprocess import Preprocessing, prepare, read_image
from train.data import walk
from train.data.samples import DataError, composed, file_digest, relative_name, shown

MOST = 256  # they stay on the device; more are thinned out evenly
LEAST_SEEN = 0.1  # a mask that is nowhere above it shows no defect


@dataclass(frozen=True, eq=False)
class DefectBank:
    images: UInt8[np.ndarray, "b h w 3"]
    masks: UInt8[np.ndarray, "b h w"]  # 255: all of the pixel is the defect's


def bank_files(folder: Path) -> list[tuple[Path, Path]]:
    """Image and mask of every defect below FOLDER/test: the soft mask where there is one, else the binary one.

    Raises:
        DataError: there are none, or an image has no mask.
    """
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is no folder. Name one that `synthesize` wrote.{walk.near_miss(folder)}")
    test = folder / "test"
    images = [path for path in walk.images(test) if path.parent.name != "good"] if test.is_dir() else []
    if not images:
        raise DataError(
            f"{shown(folder)} holds no defects below test/. Name a folder that `python -m train synthesize` wrote."
        )
    found = []
    for path in images:
        place, stem = relative_name(path.parent, test), composed(path.stem)
        masks = (folder / "soft_masks" / place / f"{stem}.png", folder / "ground_truth" / place / f"{stem}_mask.png")
        mask = next((mask for mask in masks if mask.is_file()), None)
        if mask is None:
            raise DataError(
                f"{shown(path)} has no mask: neither {shown(masks[0])} nor {shown(masks[1])} is there. Without one it "
                "isn't known which pixels are the defect."
            )
        found.append((path, mask))
    return found


def bank_digest(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 of all images and masks. DataError as `bank_files`."""
    digests = [file_digest(path) for files in bank_files(folder) for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def open_bank(folder: Path, size: int) -> DefectBank:
    """Every defect on a square of `size` pixels, at most `MOST`. What was cropped for the generator is cropped already.

    Raises:
        DataError: as `bank_files`; a mask is unreadable or of another size, or no mask shows anything.
        ImageError: an image can't be decoded.
    """
    files = bank_files(folder)
    if len(files) > MOST:
        files = [files[index] for index in np.linspace(0, len(files) - 1, MOST).astype(int)]
    preprocessing, images, masks = Preprocessing(width=size, height=size), [], []
    for path, mask_path in files:
        image, mask = read_image(path), cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.shape != image.shape[:2]:
            found = "can't be read" if mask is None else f"is {mask.shape[1]} x {mask.shape[0]} pixels"
            raise DataError(
                f"{shown(mask_path)} {found}; its image is {image.shape[1]} x {image.shape[0]}. Write the folder anew."
            )
        in_colour = prepare(np.repeat(mask[..., None], 3, axis=-1), preprocessing)
        if in_colour.max() > LEAST_SEEN * 255:
            images.append(prepare(image, preprocessing))
            masks.append(in_colour[..., 0])
    if not images:
        raise DataError(f"No mask of {shown(folder)} shows a defect: all are below {LEAST_SEEN:.0%}. Synthesise anew.")
    return DefectBank(np.stack(images), np.stack(masks))


def paste_defects(
    key: PRNGKeyArray, images: Float[Array, "n h w c"], defects: Float[Array, "b h w c"], masks: Float[Array, "b h w"]
) -> Float[Array, "n h w c"]:
    """Each image with a defect of the bank, its own draw; all in [0, 1], rounded to whole grey levels."""
    chosen = jax.random.randint(key, (len(images),), 0, len(defects))
    mask = masks[chosen][..., None]
    return jnp.round((images * (1 - mask) + defects[chosen] * mask) * 255) / 255
