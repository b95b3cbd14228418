"""Which function lowers which JAX primitive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from export.lower.errors import UnsupportedError
from export.lower.graph import Graph
from export.lower.layout import Constant, Tensor, Value, aligned, as_tensor
from export.lower.shapes import Shape


@dataclass(frozen=True)
class Operation:
    """One operation of the model: its primitive, what goes in, its parameters and what comes out."""

    graph: Graph
    primitive: str
    inputs: tuple[Value, ...]
    params: Mapping[str, Any]
    shapes: tuple[Shape, ...]  # of the outputs, logical
    dtypes: tuple[np.dtype, ...]

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def dtype(self) -> np.dtype:
        return self.dtypes[0]

    def tensor(self, index: int = 0) -> Tensor:
        return as_tensor(self.graph, self.inputs[index])

    def constant(self, index: int, what: str) -> np.ndarray:
        """The full array of an input that must be known now.

        Raises:
            UnsupportedError: the input depends on the image.
        """
        value = self.inputs[index]
        if not isinstance(value, Constant):
            raise UnsupportedError(f"its {what} depend on the image; only {what} known at export can be lowered")
        return value.full()

    def elementwise(self, op: str, *values: Value, **attributes: Any) -> Tensor:
        """An ONNX operation on each element, its operands (default: all inputs) broadcast in one stored order."""
        names, axes, sizes = aligned(self.graph, values or self.inputs, self.shape)
        return Tensor(self.graph.add(op, *names, **attributes), self.dtype, self.shape, axes, sizes)

    def result(self, name: str, axes: Sequence[int], sizes: Sequence[Any] | None = None) -> Tensor:
        """The first output under a name; stored in full unless sizes are given."""
        axes = tuple(axes)
        stored = tuple(self.shape[axis] for axis in axes) if sizes is None else tuple(sizes)
        return Tensor(name, self.dtype, self.shape, axes, stored)

    def require(self, holds: bool, reason: str) -> None:
        if not holds:
            raise UnsupportedError(reason)


Lowered: TypeAlias = Value | Sequence[Value]
Rule: TypeAlias = Callable[[Operation], Lowered]

RULES: dict[str, Rule] = {}


def lowers(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers the function that lowers these JAX primitives."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, rule))
        return rule

    return register
