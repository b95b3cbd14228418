"""Position embeddings of vision transformers, the tokens that stand before the patches, and DINOv2's resizing.

Shape letters: g x g = cells grid in the file, s x s grid wanted, c channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, isqrt
from typing import Literal

import numpy as np
from jaxtyping import Float

from train.backbones.layout import Read, Shape

# offset: DINOv2 without registers; antialias: with registers (interpolate_offset=0.1 and interpolate_antialias=True in
# the authors' hub file)
Resizing = Literal["none", "offset", "antialias"]
OFFSET = 0.1  # cells added to the wanted side when the scale is computed, and to no other number


@dataclass(frozen=True)
class PositionPart:
    """Position of the patches; in the file, positions of `leading` other tokens come first."""

    key: str
    grid: int  # patches per side of the published network
    leading: int = 0
    resizing: Resizing = "none"

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        return {self.key: (1, self.leading + self.grid**2, leaves[""][-1])}

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        position = read(self.key)[0, self.leading :]
        return {"": resized(position, isqrt(leaves[""][0]), self.resizing)}

    def misfit(self, shape: Shape) -> str:
        """What a file of another image size, whose embedding has this shape, has in place of ours."""
        side = isqrt(max(shape[1] - self.leading, 0))
        return f"{self.key} is of a {side} x {side} grid in the file and of {self.grid} x {self.grid} in the network"


@dataclass(frozen=True)
class PrefixPart:
    """Tokens before the patches: (key, how many) each. The first ones have a position of their own, added here."""

    tokens: tuple[tuple[str, int], ...]
    position: PositionPart

    def published(self, leaves: Mapping[str, Shape]) -> dict[str, Shape]:
        return {key: (1, count, leaves[""][-1]) for key, count in self.tokens}

    def convert(self, read: Read, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        tokens = np.concatenate([read(key)[0] for key, _ in self.tokens]).astype(np.float64)
        leading = self.position.leading
        tokens[:leading] += read(self.position.key)[0, :leading]
        return {"": tokens}


def resized(position: Float[np.ndarray, "cells c"], side: int, resizing: Resizing) -> Float[np.ndarray, "_cells c"]:
    """Bicubic, as torch.nn.functional.interpolate does it, in float64."""
    grid = isqrt(len(position))
    if grid == side:
        return position
    matrix = _antialiased(grid, side) if resizing == "antialias" else _plain(grid, side, (side + OFFSET) / grid)
    square = position.reshape(grid, grid, -1).astype(np.float64)
    resampled: np.ndarray = np.einsum("yi,xj,ijc->yxc", matrix, matrix, square, optimize=True)
    return resampled.reshape(side**2, -1)


def _plain(grid: int, side: int, scale: float) -> Float[np.ndarray, "s g"]:
    """Four neighbours, clamped at the border."""
    matrix = np.zeros((side, grid))
    for place in range(side):
        source = (place + 0.5) / scale - 0.5
        for neighbour in range(floor(source) - 1, floor(source) + 3):
            matrix[place, min(max(neighbour, 0), grid - 1)] += _cubic(source - neighbour, -0.75)
    return matrix


def _antialiased(grid: int, side: int) -> Float[np.ndarray, "s g"]:
    """The kernel is as wide as a cell of the result, and what lies outside the grid does not count."""
    step = grid / side
    width = max(step, 1.0)
    matrix = np.zeros((side, grid))
    for place in range(side):
        centre = (place + 0.5) * step
        first, last = max(floor(centre - 2 * width + 0.5), 0), min(floor(centre + 2 * width + 0.5), grid)
        for cell in range(first, last):
            matrix[place, cell] = _cubic((cell + 0.5 - centre) / width, -0.5)
    normalised: np.ndarray = matrix / matrix.sum(axis=1, keepdims=True)
    return normalised


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
