"""The element types that the graph holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from export.lower.errors import UnsupportedError

FLOAT32 = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
BOOL = np.dtype(np.bool_)

_ONNX = {
    FLOAT32: onnx.TensorProto.FLOAT,
    INT32: onnx.TensorProto.INT32,
    BOOL: onnx.TensorProto.BOOL,
    np.dtype(np.uint8): onnx.TensorProto.UINT8,
    np.dtype(np.int8): onnx.TensorProto.INT8,
    np.dtype(np.int64): onnx.TensorProto.INT64,
}


def onnx_type(dtype: Any) -> int:
    """ONNX's number of a dtype.

    Raises:
        UnsupportedError: the graph holds no such values. float64 means that jax_enable_x64 is on.
    """
    dtype = np.dtype(dtype)
    if dtype not in _ONNX:
        hint = "; turn jax_enable_x64 off" if dtype.itemsize == 8 else ""
        known = ", ".join(sorted(str(d) for d in _ONNX))
        raise UnsupportedError(f"{dtype} values are not lowered (known: {known}){hint}")
    return int(_ONNX[dtype])
