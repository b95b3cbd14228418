"""Networks of a run that are exported one by one, beside the detector that they make up."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Array(NamedTuple):
    """What goes into a network. One size may be "batch"."""

    shape: tuple[int | str, ...]
    dtype: type = np.float32
    limit: float = 1.0  # what is tried lies in 0 .. limit, limit itself left out


class Network(NamedTuple):
    """A pure function of arrays, its weights inside."""

    name: str
    function: Callable[..., Any]
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
