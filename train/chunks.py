"""Arrays too long for one call of a compiled program: in parts of one size, so that it is compiled once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def chunks(compute: Callable[[np.ndarray], Any], rows: np.ndarray, at_once: int) -> Iterator[Any]:
    """What `compute` makes of `at_once` rows at a time, on the host: an array, or a tree of them, with a row for each.

    The last part is filled up with its last row; what comes of the filling is dropped.
    """
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        filled = np.concatenate([some, np.repeat(some[-1:], at_once - len(some), axis=0)])
        yield jax.tree.map(lambda x, n=len(some): np.asarray(x)[:n], compute(filled))


def in_chunks(compute: Callable[[np.ndarray], Any], rows: np.ndarray, at_once: int) -> Any:
    """The same of all rows; there must be one."""
    found = list(chunks(compute, rows, at_once))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
