"""Stain as the sheet samples it (steps 2 to 6), one image at a time in NumPy and SciPy; slow, and another way round:
it draws the outline, interpolates both coordinates and fills the polygon."""

import numpy as np
from scipy.interpolate import CubicSpline

CONTROL_POINTS = 20
SAMPLES_PER_POINT = 10


def reference_stain_mask(
    rng: np.random.Generator, h: int, w: int, smallest: float = 0.01, largest: float = 0.12, irregularity: float = 0.1
) -> np.ndarray:
    """float [h, w], 1 inside."""
    a = max(rng.integers(int(smallest * w), int(largest * w), endpoint=True), 1)
    b = max(rng.integers(int(smallest * h), int(largest * h), endpoint=True), 1)
    theta = rng.uniform(0, 2 * np.pi)
    margin = max(a, b)
    center = np.array([rng.uniform(margin, w - margin), rng.uniform(margin, h - margin)])
    t = 2 * np.pi * np.arange(CONTROL_POINTS) / CONTROL_POINTS
    points = np.stack([a * np.cos(t), b * np.sin(t)], -1)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    delta = int(irregularity * (a + b) / 2)
    points = points @ turn.T + rng.integers(-delta, delta, size=points.shape, endpoint=True)
    # Around a thin ellipse polar angles bunch up; their order is that of the angles in the unit circle's frame.
    unit = points @ turn / np.array([a, b])
    points = points[np.argsort(np.arctan2(unit[:, 1], unit[:, 0]))]
    closed = np.concatenate([points, points[:1]])
    spline = CubicSpline(np.arange(CONTROL_POINTS + 1), closed, bc_type="periodic")
    outline = center + spline(np.arange(0, CONTROL_POINTS, 1 / SAMPLES_PER_POINT))
    return fill_polygon(outline, h, w)


def fill_polygon(outline: np.ndarray, h: int, w: int) -> np.ndarray:
    """Even-odd rule at pixel centres."""
    mask = np.zeros((h, w), bool)
    low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, None)
    high = np.ceil(outline.max(0)).astype(int) + 2
    y, x = np.mgrid[low[1] : min(high[1], h), low[0] : min(high[0], w)]
    inside = np.zeros(y.shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    mask[low[1] : min(high[1], h), low[0] : min(high[0], w)] = inside
    return mask.astype(float)
