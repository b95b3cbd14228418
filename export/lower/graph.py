"""The ONNX graph while it is being written: nodes, constants (each kept once), names and run-time sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from export.lower.errors import UnsupportedError
from export.lower.shapes import Dim, factor, is_static

_WORTH_PACKING = 1 << 14  # values; below it a mask in the graph costs more than it saves


@dataclass
class Node:
    """One ONNX operation. Passes edit it in place."""

    op: str
    inputs: list[str]  # '' where an optional input is left out
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    scope: str = ""


class Graph:
    """Nodes in order of execution. The same operation on the same inputs is written once."""

    def __init__(self, batch: Dim | None = None, batch_source: tuple[str, int] | None = None) -> None:
        """`batch_source` is the graph input, and the axis of it, whose size is the symbolic `batch`."""
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        self.stored_sizes: dict[str, tuple[Dim, ...]] = {}  # of the tensors that are reshaped
        self.batch = batch
        self.scope = ""  # prefix of the node names being written; `trace` sets it for each operation
        self.prefers_channels_first = False
        self._batch_source = batch_source
        self._known_constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._known_nodes: dict[Any, tuple[str, ...]] = {}
        self._count = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Writes an operation with one output and returns the output's name."""
        return self.add_many(op, *inputs, outputs=1, **attributes)[0]

    def add_many(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        key = (op, inputs, outputs, tuple(sorted((name, _hashable(value)) for name, value in attributes.items())))
        if key not in self._known_nodes:
            names = tuple(self.new_name(op) for _ in range(outputs))
            self.nodes.append(Node(op, list(inputs), list(names), attributes, self.scope))
            self._known_nodes[key] = names
        return self._known_nodes[key]

    def add_output(self, source: str, name: str) -> None:
        """Gives a tensor the name of a graph output."""
        self.nodes.append(Node("Identity", [source], [name]))
        self.outputs.append(name)

    def constant(self, values: Any, dtype: Any = None) -> str:
        """The name of a constant; equal constants share one."""
        array = np.ascontiguousarray(np.asarray(values, dtype)) if np.ndim(values) else np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, sha256(array.tobytes()).digest())
        if key not in self._known_constants:
            name = self.new_name("constant")
            self.constants[name] = array
            self._known_constants[key] = name
        return self._known_constants[key]

    def packed_constant(self, array: np.ndarray) -> str:
        """As `constant`, but a large float array of only two values is kept as a mask and spread when the model loads:
        30 dropout masks take a quarter of the file.
        """
        if array.dtype == np.float32 and array.size >= _WORTH_PACKING:
            first = array.flat[0]
            is_second = array != first
            seconds = array[is_second]
            if seconds.size and np.all(seconds == seconds[0]):
                return self.add("Where", self.constant(is_second), self.constant(seconds[0]), self.constant(first))
        return self.constant(array)

    def integers(self, *values: int) -> str:
        """A one-dimensional int64 constant: axes, sizes, starts."""
        return self.constant([int(value) for value in values], np.int64)

    def size(self, dim: Dim) -> str:
        """The name of an int64 tensor of shape [1] that holds a size when the model runs.

        Raises:
            UnsupportedError: the size is not a multiple of the batch.
        """
        if is_static(dim):
            return self.integers(dim)
        k, power = factor(dim, self.batch)
        if self._batch_source is None or power != 1:
            raise UnsupportedError(f"a size of {dim} is not known before the model runs")
        source, axis = self._batch_source
        batch = self.add("Shape", source, start=axis, end=axis + 1)
        return batch if k == 1 else self.add("Mul", batch, self.integers(k))

    def sizes(self, dims: Sequence[Dim]) -> str:
        """As `size`, for a whole shape."""
        if all(is_static(dim) for dim in dims):
            return self.integers(*dims)
        return self.add("Concat", *[self.size(dim) for dim in dims], axis=0)

    def new_name(self, op: str) -> str:
        self._count += 1
        return f"{op.lower()}_{self._count}"


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
