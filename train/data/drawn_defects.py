"""What can go wrong with the drawn part: scratch, stain, missing piece, crack. Lengths are fractions of the side."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from train.data.drawn_parts import (
    CHAMFER,
    HOLE,
    HOLE_CIRCLE,
    HOLES,
    RIM,
    SEAL,
    SLOT_END,
    SLOT_HALF_WIDTH,
    STEEL,
    Defect,
    Field,
    Surface,
    View,
)

OIL = np.array([0.16, 0.11, 0.06], np.float32)


def scratch(rng: np.random.Generator, view: View, surface: Surface, strength: float) -> None:
    """A tool slipped: a long, slightly bent line of bare metal with a burr in its shade."""
    length = rng.uniform(0.18, 0.34) * (0.6 + 0.4 * strength)
    middle = _polar(rng.uniform(0.17, 0.33), rng.uniform(0, 2 * np.pi))
    heading = rng.uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 25)
    bend = rng.uniform(-0.25, 0.25) * (along**2 - 0.08) + 0.02 * rng.uniform(-1, 1) * np.sin(along * 9)
    direction, normal = _polar(1.0, heading), _polar(1.0, heading + np.pi / 2)
    points = middle + length * (along[:, None] * direction + bend[:, None] * normal)
    distance, where = _distance_to_path(view, points)
    half_width = max(rng.uniform(0.0042, 0.0060) * (0.5 + 0.5 * strength), 0.45 / view.size)
    pressure = np.sqrt(np.clip(np.minimum(where, 1 - where) * 6, 0, 1))  # the ends fade
    line = view.coverage(np.abs(distance) - half_width * (0.4 + 0.6 * pressure)) * pressure
    burr = view.coverage(np.abs(distance - 2.2 * half_width) - 1.1 * half_width) * pressure
    bare = (0.35 + 0.65 * strength) * line
    shade = 1.0 - 0.55 * (0.3 + 0.7 * strength) * burr
    surface.steel *= shade[..., None]
    surface.steel += (STEEL * 1.75 - surface.steel) * bare[..., None]
    surface.seal *= (1.0 - 0.7 * bare)[..., None]  # rubber is cut, not polished


def stain(rng: np.random.Generator, view: View, surface: Surface, strength: float) -> None:
    """A drop of oil dried on the face: an irregular film, darkest where its edge was."""
    radius = rng.uniform(0.038, 0.072) * (0.55 + 0.45 * strength)
    middle = _polar(rng.uniform(0.19, 0.35), rng.uniform(0, 2 * np.pi))
    distance = _blob(rng, view, middle, radius, roughness=0.16, stretch=rng.uniform(1.0, 1.6))
    cloud = cv2.resize(
        rng.standard_normal((9, 9)).astype(np.float32), (view.size, view.size), interpolation=cv2.INTER_CUBIC
    )
    inside = np.clip(0.5 - distance / 0.007, 0.0, 1.0)
    edge = np.exp(-(((distance + 0.006) / 0.006) ** 2))
    film = inside * (0.50 + 0.10 * cloud + 0.25 * edge) * (0.30 + 0.65 * strength)
    film = np.clip(film, 0.0, 0.92)[..., None]
    surface.steel += (OIL - surface.steel) * film
    surface.seal += (OIL - surface.seal) * film


def missing_piece(rng: np.random.Generator, view: View, surface: Surface, strength: float) -> None:
    """A piece broken out of the rim, or out of the seal."""
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:
        reach = rng.uniform(0.055, 0.095) * (0.5 + 0.5 * strength)
        gap = _blob(rng, view, _polar(RIM + 0.2 * reach, angle), reach, roughness=0.14, stretch=rng.uniform(1.0, 1.5))
        surface.body = np.maximum(surface.body, -gap)
        grain = cv2.GaussianBlur(rng.standard_normal((view.size, view.size)).astype(np.float32), (0, 0), 0.8)
        fracture = np.clip(1.5 - gap / 0.008, 0.0, 1.0)  # a band of rough metal along the break
        surface.steel *= (1.0 - fracture * (0.35 + 0.5 * grain))[..., None]
    else:
        half_angle = rng.uniform(0.10, 0.28) * (0.4 + 0.6 * strength)
        turned = np.abs((np.arctan2(view.y, view.x) - angle + np.pi) % (2 * np.pi) - np.pi)
        ragged = 0.006 * np.sin((view.radius - SEAL) * 300 + rng.uniform(0, 6))
        surface.seal_present *= 1.0 - view.coverage((turned - half_angle) * SEAL + ragged)


def crack(rng: np.random.Generator, view: View, surface: Surface, strength: float) -> None:
    """A crack that starts at an edge under load (the key slot, a bolt hole, the rim) and wanders as it thins."""
    start, heading = _crack_start(rng)
    length = rng.uniform(0.15, 0.26) * (0.55 + 0.45 * strength)
    steps = 11
    turns = np.cumsum(rng.normal(0.0, 0.35, steps)) * 0.6 + rng.normal(0.0, 0.35, steps)
    moves = np.stack([_polar(length / steps, heading + turn) for turn in turns])
    points = np.vstack([start, start + np.cumsum(moves, axis=0)])
    distance, where = _distance_to_path(view, points)
    half_width = np.maximum((0.0080 * (0.55 + 0.45 * strength)) * (1 - 0.75 * where), 0.3 / view.size)
    gap = view.coverage(np.abs(distance) - half_width) * (0.35 + 0.6 * strength)
    lip = view.coverage(np.abs(distance + 2 * half_width) - half_width) * 0.25 * strength
    surface.steel *= (1.0 + lip - lip * gap)[..., None]
    surface.steel *= (1.0 - gap)[..., None]


DEFECTS: dict[str, Defect] = {"scratch": scratch, "stain": stain, "missing_piece": missing_piece, "crack": crack}


def _crack_start(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A point on an edge and the direction in which the part cracks from it."""
    place = rng.integers(3)
    if place == 0:  # a corner of the key slot, which lies towards the top
        return np.array([rng.choice([-SLOT_HALF_WIDTH, SLOT_HALF_WIDTH]), -SLOT_END - 0.002]), -np.pi / 2 + rng.normal(
            0.0, 0.6
        )
    if place == 1:
        heading = rng.uniform(0, 2 * np.pi)
        middle = _polar(HOLE_CIRCLE, int(rng.integers(HOLES)) * 2 * np.pi / HOLES)
        return middle + _polar(HOLE, heading), heading
    angle = rng.uniform(0, 2 * np.pi)
    return _polar(RIM - 0.3 * CHAMFER, angle), angle + np.pi + rng.normal(0.0, 0.4)


def _polar(radius: float, angle: float) -> np.ndarray:
    point: np.ndarray = radius * np.array([np.cos(angle), np.sin(angle)])
    return point


def _blob(
    rng: np.random.Generator,
    view: View,
    middle: np.ndarray,
    radius: float,
    *,
    roughness: float,
    stretch: float,
) -> Field:
    """About the signed distance to an irregular round shape."""
    turn = rng.uniform(0, np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = view.x - middle[0], view.y - middle[1]
    x, y = (x * cos + y * sin) / np.sqrt(stretch), (y * cos - x * sin) * np.sqrt(stretch)
    angle = np.arctan2(y, x)
    outline = np.ones_like(angle)
    for wave in range(2, 8):
        outline += roughness / wave**0.8 * rng.normal() * np.sin(wave * angle + rng.uniform(0, 2 * np.pi))
    distance: Field = (np.hypot(x, y) - radius * np.clip(outline, 0.4, 1.8)).astype(np.float32)
    return distance


def _distance_to_path(view: View, points: np.ndarray) -> tuple[Field, Field]:
    """Distance of each pixel to a polyline, with the side as its sign, and how far along the path, 0 to 1."""
    best = np.full(view.x.shape, np.float32(np.inf))
    signed, where = best.copy(), np.zeros_like(best)
    for i, (start, end) in enumerate(pairwise(points)):
        step = (end - start).astype(np.float32)
        x, y = view.x - np.float32(start[0]), view.y - np.float32(start[1])
        along = np.clip((x * step[0] + y * step[1]) / float(step @ step), 0.0, 1.0)
        distance = np.hypot(x - along * step[0], y - along * step[1])
        nearer = distance < best
        best = np.where(nearer, distance, best)
        signed = np.where(nearer, np.where(step[0] * y - step[1] * x < 0, -distance, distance), signed)
        where = np.where(nearer, (i + along) / np.float32(len(points) - 1), where)
    return signed.astype(np.float32), where.astype(np.float32)
