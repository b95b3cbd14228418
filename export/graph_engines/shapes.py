"""The inputs and outputs of a graph, its batch given."""

from typing import NamedTuple

import numpy as np
import onnx


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def inputs_of(model: onnx.ModelProto, batch: int) -> list[Tensor]:
    return [_tensor(value, batch) for value in model.graph.input]


def outputs_of(model: onnx.ModelProto, batch: int) -> list[Tensor]:
    return [_tensor(value, batch) for value in model.graph.output]


def _tensor(value: onnx.ValueInfoProto, batch: int) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(axis.dim_value or batch for axis in kind.shape.dim)
    return Tensor(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
