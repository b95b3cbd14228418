"""Anomaly maps as PNG: for machines (grey levels) and for people (drawn over the part)."""

import contextlib
import os
from collections import deque
from pathlib import Path

import cv2
import numpy as np

THRESHOLD_GREY = 100  # grey level of the pixel threshold in `encode_map`, so 255 is 2.55 times the threshold


class PictureError(RuntimeError):
    """A picture that can't be written; the text says why."""


def encode_map(anomaly_map: np.ndarray) -> bytes:
    """Normalised float32 [h, w] as an 8-bit grey PNG: grey = 100 * value, rounded, at most 255."""
    grey = np.clip(np.rint(anomaly_map * THRESHOLD_GREY), 0, 255).astype(np.uint8)
    return _png(grey)


def encode_frame(image: np.ndarray) -> bytes:
    """uint8 [h, w, 3] RGB as PNG, without loss."""
    return _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def encode_grey(image: np.ndarray) -> bytes:
    """uint8 [h, w] as a grey PNG, without loss."""
    return _png(image)


def overlay(image: np.ndarray, anomaly_map: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] RGB: the part in grey, coloured towards the pixel threshold, areas above it outlined.

    image: uint8 [h, w, 3] RGB at model size. anomaly_map: normalised float32 [h, w].
    """
    value = np.nan_to_num(anomaly_map, nan=2.0, posinf=2.0, neginf=0.0)
    level = np.clip(value / 2.0, 0.0, 1.0)  # the threshold is half way up the colours
    colours = cv2.cvtColor(cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    weight = (0.7 * np.clip(value, 0.0, 1.0))[..., None]
    drawn: np.ndarray = np.ascontiguousarray((grey * (1.0 - weight) + colours * weight).astype(np.uint8))
    outlines, _ = cv2.findContours((value > 1.0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1)
    return drawn


def write_png(path: Path, image: np.ndarray, *, keep: bool = False) -> None:
    """uint8 RGB or grey to a lossless file that is there whole or not at all. PictureError where it can't be written.

    keep: for training images: an existing file is not overwritten, and a power cut after the return loses nothing.
    """
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(_png(image))
            if keep:
                file.flush()
                os.fsync(file.fileno())
        if keep:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    except FileExistsError:
        raise PictureError(f"{path} exists already and is not overwritten. Give an empty folder.") from None
    except OSError as error:
        raise PictureError(f"{path} can't be written ({error.strerror}). Make room, or give another folder.") from error
    finally:
        with contextlib.suppress(OSError):  # a disk that takes nothing gives nothing back either
            temporary.unlink(missing_ok=True)


class Album:
    """A folder of pictures of rejects that keeps the newest `keep`."""

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted((path for path in folder.glob("*.png")), key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            raise PictureError(
                f"{folder} can't be used ({error.strerror}). Give another anomaly_maps.folder."
            ) from error
        self._kept = deque(found)

    def add(self, name: str, image: np.ndarray, anomaly_map: np.ndarray) -> Path:
        path = self._folder / f"{name}.png"
        write_png(path, overlay(image, anomaly_map))
        self._kept.append(path)
        while len(self._kept) > self._keep:
            oldest = self._kept.popleft()
            try:
                oldest.unlink(missing_ok=True)
            except OSError as error:
                raise PictureError(
                    f"{oldest} can't be deleted ({error.strerror}). Give the agent's user the right to."
                ) from error
        return path


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise PictureError(f"A picture of {image.shape} can't be encoded as PNG.")
    encoded: bytes = data.tobytes()
    return encoded
