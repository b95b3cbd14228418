"""Logical shapes: integers and multiples of the symbolic batch, and how a reshape regroups them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from export.lower.errors import UnsupportedError

Dim: TypeAlias = Any  # int, or a jax.export symbolic dimension such as batch or 30*batch
Shape: TypeAlias = tuple[Dim, ...]
Group: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # axes before -> axes after, equal in size


def is_static(dim: Dim) -> bool:
    return isinstance(dim, (int, np.integer))


def is_one(dim: Dim) -> bool:
    return is_static(dim) and int(dim) == 1


def same(a: Dim, b: Dim) -> bool:
    """Whether two sizes are known to be equal; a symbolic size equals no integer."""
    return is_static(a) == is_static(b) and bool(a == b)


def all_static(shape: Sequence[Dim]) -> bool:
    return all(is_static(dim) for dim in shape)


def per_image(shape: Sequence[Dim]) -> int:
    """Elements, a symbolic size counted as one: a measure of cost."""
    return prod(int(dim) for dim in shape if is_static(dim))


def factor(dim: Dim, batch: Dim | None) -> tuple[int, int]:
    """(k, p) with dim = k * batch**p.

    Raises:
        UnsupportedError: the size is not a multiple of the batch, such as batch + 1.
    """
    rest, power = dim, 0
    while not is_static(rest):
        quotient = rest if batch is None else rest // batch
        if batch is None or not same(quotient * batch, rest):
            raise UnsupportedError(f"a size of {dim} is not a multiple of the batch")
        rest, power = quotient, power + 1
    return int(rest), power


def regroup(before: Sequence[Dim], after: Sequence[Dim], batch: Dim | None) -> list[Group]:
    """Smallest runs of axes of equal size on both sides, axes of size 1 left out: (6, 4) -> (2, 3, 4) gives 6 to 2*3
    and 4 to 4. Sizes that share no smaller run end in one group, which is always right.
    """
    left, right = _Side(before, batch), _Side(after, batch)
    groups: list[Group] = []
    while left.waiting or right.waiting:
        left.begin()
        right.begin()
        while left.size != right.size:
            behind = left.size[0] <= right.size[0] and left.size[1] <= right.size[1]
            ahead = left.size[0] >= right.size[0] and left.size[1] >= right.size[1]
            (left if behind or (left.waiting and not ahead) else right).take()
        groups.append((tuple(left.run), tuple(right.run)))
    return groups


class _Side:
    """One shape of a reshape: the axes not yet grouped, and the run being gathered with its size k * batch**p."""

    def __init__(self, shape: Sequence[Dim], batch: Dim | None):
        self._shape = tuple(shape)
        self._batch = batch
        self.waiting = [axis for axis, dim in enumerate(shape) if not is_one(dim)]

    def begin(self) -> None:
        self.run: list[int] = []
        self.size = (1, 0)
        self.take()

    def take(self) -> None:
        if not self.waiting:
            raise UnsupportedError(f"a reshape from or to {self._shape} changes the number of values")
        axis = self.waiting.pop(0)
        k, p = factor(self._shape[axis], self._batch)
        self.run.append(axis)
        self.size = (self.size[0] * k, self.size[1] + p)
