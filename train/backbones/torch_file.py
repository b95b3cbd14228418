"""PyTorch's .pth without PyTorch and without running anything.

Such a file is a zip: PREFIX/data.pkl, a pickle that names tensors, and PREFIX/data/N, their numbers. A pickle is a
program that may call any function of Python. This reader knows five names and makes something inert of each; any other
name ends the reading before anything has run.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from train.backbones.errors import WeightsError
from train.backbones.layout import Shape

# Before PyTorch 1.6, a file was a row of pickles, the first of which is this number.
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What a damaged or hostile pickle makes the interpreter of pickles raise.
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(
        MemoryError,
        RecursionError,
        AssertionError,
        struct.error,
        zipfile.BadZipFile,
        OSError,
        NotImplementedError,
        ImportError,
    ),
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in the file."""

    path: Path
    member: str
    dtype: np.dtype
    shape: Shape
    strides: Shape  # in elements
    offset: int

    def array(self) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = archive.read(self.member)
        except _BROKEN as error:
            raise _unreadable(self.path, error) from error
        flat = np.frombuffer(data[: len(data) - len(data) % self.dtype.itemsize], self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        if last >= len(flat):
            raise _unreadable(self.path, f"a tensor reaches past the end of {self.member}")
        steps = tuple(step * self.dtype.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps).copy()


def is_legacy_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LEGACY_START)) == _LEGACY_START


def read_torch_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict, or of one under "model" or "state_dict".

    Raises:
        WeightsError: it holds anything but tensors, or can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise WeightsError(
                    f"{path} is a compressed zip; PyTorch's files are not. Save it anew with torch.save."
                )
            names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl" and name.count("/") == 1]
            if len(names) != 1:
                raise WeightsError(f"{path} is a zip, but not one that torch.save wrote: it has no data.pkl.")
            root = names[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise WeightsError(
                    f"{path} was saved on a big-endian machine. Save it anew on another, or as safetensors."
                )
            content = _Unpickler(path, root, archive.read(names[0])).load()
    except WeightsError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    return _state_dict(path, content)


def _state_dict(path: Path, content: Any) -> dict[str, StoredTensor]:
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise WeightsError(f"{path} holds no state dict. Save one: torch.save(model.state_dict(), FILE).")
    for key, value in content.items():
        if not isinstance(value, StoredTensor):
            raise WeightsError(
                f"{path}: {key} is no tensor. Save the state dict alone: torch.save(model.state_dict(), FILE)."
            )
    return content


class _Storage(NamedTuple):
    member: str
    dtype: np.dtype
    size: int  # elements


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Call(NamedTuple):
    """Stands for a function of PyTorch; immutable, so that a pickle can't change what it does."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _Unpickler(pickle._Unpickler):
    """Python's own interpreter written in Python: the one in C lets a damaged pickle take gigabytes."""

    def __init__(self, path: Path, root: str, data: bytes):
        super().__init__(io.BytesIO(data))
        self.path, self.root = path, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Call(self._tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Call(lambda data, requires_grad, hooks: data)
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        raise WeightsError(
            f"{self.path} holds {module}.{name}, which is no tensor; nothing of it was run. Save the state dict alone: "
            "torch.save(model.state_dict(), FILE), or bring the weights as safetensors."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not str(key).isalnum():
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(f"{self.root}data/{key}", storage_type.dtype, int(size))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise pickle.UnpicklingError("a tensor without a storage")
        numbers = (offset, *shape, *strides)
        if not all(type(number) is int and number >= 0 for number in numbers) or math.prod(shape) > storage.size:
            raise pickle.UnpicklingError("a tensor larger than its storage")
        return StoredTensor(self.path, storage.member, storage.dtype, tuple(shape), tuple(strides), offset)


def _unreadable(path: Path, reason: object) -> WeightsError:
    return WeightsError(f"{path} can't be read ({reason}). It may be cut short: fetch it again and compare its size.")
