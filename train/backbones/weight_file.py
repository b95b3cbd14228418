"""A file of weights: keys, shapes, and each tensor when it is asked for. safetensors, or PyTorch's .pth read safely."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  makes bfloat16 a NumPy type, which safetensors needs
import numpy as np
from safetensors import SafetensorError, safe_open

from train.backbones.errors import WeightsError
from train.backbones.layout import Shape
from train.backbones.torch_file import is_legacy_torch_file, read_torch_file

FLOATS = frozenset(("F16", "BF16", "F32", "F64"))


@dataclass(frozen=True)
class WeightFile:
    """What a file holds. `read` gives a tensor as float32, or float64 where the file has that."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]
    metadata: dict[str, str]


def open_weights(path: Path) -> WeightFile:
    """By its content, whatever its suffix says.

    Raises:
        WeightsError: it is not there, is cut short, or is of no format that can be read without running it.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not there. Name a file of weights, .safetensors or .pth.")
    if zipfile.is_zipfile(path):
        return _open_torch(path)
    if is_legacy_torch_file(path):
        raise WeightsError(
            f"{path} is in PyTorch's format of before 2020, which can't be read without running it. Load it once in "
            "PyTorch and save it anew: torch.save(torch.load(FILE, weights_only=True), NEW_FILE), or as safetensors."
        )
    return _open_safetensors(path)


def _open_safetensors(path: Path) -> WeightFile:
    try:
        file: Any = safe_open(path, framework="numpy")  # mapped into memory: only what is read costs anything
        shapes: dict[str, Shape] = {}
        others: dict[str, Shape] = {}
        for key in file.keys():  # noqa: SIM118  not a mapping
            piece = file.get_slice(key)
            (shapes if piece.get_dtype() in FLOATS else others)[key] = tuple(piece.get_shape())
        metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} can't be read as safetensors ({error}). It may be cut short: fetch it again and compare its size."
        ) from error
    shapes |= {key: shape for key, shape in others.items() if shape == ()}  # counters

    def read(key: str) -> np.ndarray:
        return _as_float(file.get_tensor(key))

    return WeightFile(path, shapes, read, metadata)


def _open_torch(path: Path) -> WeightFile:
    tensors = read_torch_file(path)
    return WeightFile(path, {k: t.shape for k, t in tensors.items()}, lambda key: _as_float(tensors[key].array()), {})


def _as_float(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.float64 else array.astype(np.float32)
