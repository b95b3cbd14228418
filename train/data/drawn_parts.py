"""A machined flange under a line camera, drawn by code: steel, bolt holes, a rubber seal on a dark conveyor.

Lengths are fractions of the picture's side, angles are radians, y points down. A shape is a signed distance, negative
inside, so edges are smooth at every size and a defect's mask is exact: the pixels that differ from the same part
without the defect. The defects are in `drawn_defects.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

Field = np.ndarray  # float32 [size, size], or [size, size, 3] where it is a colour

RIM, BORE, CHAMFER = 0.405, 0.118, 0.018
SLOT_HALF_WIDTH, SLOT_END = 0.017, 0.148  # the key slot, which opens the bore towards the top
SEAL, SEAL_HALF_WIDTH = 0.235, 0.021  # radius of the ring's middle line
HOLES, HOLE_CIRCLE, HOLE, COUNTERSINK = 6, 0.323, 0.027, 0.011
TURNED_GROOVES = ((0.275, 0.0035, 0.35), (0.196, 0.003, 0.25))  # radius, half width, how dark
THICKNESS = 0.03  # of the part, where it throws its shadow

STEEL = np.array([0.60, 0.61, 0.62], np.float32)
RUBBER = np.array([0.64, 0.22, 0.10], np.float32)
BELT = np.array([0.145, 0.165, 0.185], np.float32)

VISIBLE_LEVELS = 2.0  # grey levels of 255 by which a pixel must differ to belong to a defect


@dataclass(frozen=True)
class Pose:
    """How a part came to lie under the camera, and how the light was: what varies between good parts."""

    x: float
    y: float
    angle: float
    light: float  # direction the light comes from
    brightness: float


@dataclass(frozen=True)
class View:
    """Where each pixel is on the part, [size, size] each."""

    x: Field
    y: Field
    radius: Field
    facing: Field  # cosine of the angle between the direction from the part's middle and the light
    size: int

    def coverage(self, distance: Field) -> Field:
        """How much of each pixel lies inside a shape, 0 to 1."""
        inside: Field = np.clip(0.5 - distance * np.float32(self.size), 0.0, 1.0)
        return inside


@dataclass
class Surface:
    """What a defect may change before the part is put together."""

    body: Field  # signed distance to what is left of the disc
    seal_present: Field  # 0 to 1
    steel: Field  # colour
    seal: Field  # colour


Defect = Callable[[np.random.Generator, View, Surface, float], None]
"""Changes the surface. The last argument is its strength: 1 plain to see, 0.3 only for who looks closely."""


def draw_part(
    key: list[int], size: int, defect: Defect | None = None, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 RGB [size, size, 3], and the pixels that the defect changed, bool [size, size].

    The same key gives the same part in the same pose with the same sensor noise, with its defect or without.
    """
    part_key, defect_key, noise_key = np.random.SeedSequence(key).spawn(3)
    rng = np.random.default_rng(part_key)
    pose = _pose(rng)
    view = _view(pose, size)
    surface = Surface(view.radius - RIM, np.ones((size, size), np.float32), _steel(rng, view), _seal(view))
    belt = _belt(rng, pose, size)

    image = _photograph(view, surface, belt, pose)
    mask = np.zeros((size, size), np.bool_)
    if defect is not None:
        defect(np.random.default_rng(defect_key), view, surface, strength)
        clean, image = image, _photograph(view, surface, belt, pose)
        changed = np.abs(image - clean).max(axis=-1) > VISIBLE_LEVELS / 255
        mask = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(np.bool_)
    noise = np.random.default_rng(noise_key).standard_normal(image.shape, dtype=np.float32)
    noisy = image + noise * (0.002 + 0.006 * np.sqrt(np.clip(image, 0.0, 1.0)))  # read noise and shot noise
    return np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8), mask


def _pose(rng: np.random.Generator) -> Pose:
    """A fixture with some play: bounded, so that no good part lies like no other."""
    return Pose(
        x=rng.uniform(-0.006, 0.006),
        y=rng.uniform(-0.006, 0.006),
        angle=rng.uniform(-0.035, 0.035),
        light=-2.2 + rng.uniform(-0.05, 0.05),
        brightness=rng.uniform(0.98, 1.02),
    )


def _photograph(view: View, surface: Surface, belt: Field, pose: Pose) -> Field:
    """What the lens makes of the part, before the sensor: about 0 to 1."""
    across, down = _grid(view.size)
    falloff = 1.0 - 0.14 * (across * np.cos(pose.light) + down * 0.8) - 0.35 * (across**2 + down**2)
    lit = _assemble(view, surface, belt, pose) * (pose.brightness * falloff)[..., None]
    image: Field = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), 0.55 * max(view.size / 256, 0.6))
    return image


def _view(pose: Pose, size: int) -> View:
    across, down = _grid(size)
    across, down = across - np.float32(pose.x), down - np.float32(pose.y)
    cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    radius = np.hypot(across, down)
    facing = (across * np.float32(np.cos(pose.light)) + down * np.float32(np.sin(pose.light))) / (radius + 1e-6)
    return View(across * cos + down * sin, down * cos - across * sin, radius, facing, size)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Field, Field]:
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    down, across = np.meshgrid(axis, axis, indexing="ij")
    return across, down


def _belt(rng: np.random.Generator, pose: Pose, size: int) -> Field:
    """The conveyor: a woven band with the part's soft shadow on it."""
    across, down = _grid(size)
    phase = rng.uniform(0.0, 2 * np.pi, 2).astype(np.float32)
    weave = np.sin(across * 190 + phase[0]) * np.sin(down * 190 + phase[1])
    cloud = cv2.resize(rng.standard_normal((6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    from_shadow = np.hypot(
        across - np.float32(pose.x - THICKNESS * np.cos(pose.light)),
        down - np.float32(pose.y - THICKNESS * np.sin(pose.light)),
    )
    shadow = np.clip((RIM + 0.022 - from_shadow) / 0.044, 0.0, 1.0)
    light = (1.0 + 0.05 * weave + 0.015 * cloud) * (1.0 - 0.6 * shadow**2 * (3 - 2 * shadow))
    belt: Field = BELT * light[..., None]
    return belt


def _steel(rng: np.random.Generator, view: View) -> Field:
    """A face turned on a lathe: rings of tool marks, and the bow-tie shine that they give."""
    marks = cv2.GaussianBlur(
        rng.standard_normal((1, 400)).astype(np.float32), (0, 0), 1.2, borderType=cv2.BORDER_REFLECT
    )
    rings = np.interp(view.radius, np.linspace(0.0, 0.72, 400), marks[0] / marks.std()).astype(np.float32)
    shine = 0.36 * np.abs(view.facing) ** 7 + 0.10 * (1.0 - view.facing**2) ** 12
    feed = 0.010 * np.sin(view.radius * 620)
    light = 0.78 + shine + feed * (0.6 + shine) + 0.016 * rings * (0.5 + 2 * shine)
    for radius, half_width, depth in TURNED_GROOVES:
        across = (view.radius - radius) / half_width
        light = light - depth * np.exp(-(across**2)) * (1.0 - 0.5 * view.facing * across)
    steel: Field = STEEL * (light * (1.0 - 0.55 * _engraving(view)))[..., None]
    return steel


def _engraving(view: View) -> Field:
    """The part number below the bore, 0 to 1."""
    width, below = 0.135, 0.158
    column, row = view.x * np.float32(256 / width) + 128, (view.y - np.float32(below)) * np.float32(256 / width) + 32
    mark: Field = cv2.remap(_stamp(), column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return mark


@lru_cache(maxsize=1)
def _stamp() -> Field:
    stamp = np.zeros((64, 256), np.uint8)
    cv2.putText(stamp, "FL-204", (14, 50), cv2.FONT_HERSHEY_SIMPLEX, 1.75, 255, 5, cv2.LINE_AA)
    soft: Field = cv2.GaussianBlur(stamp, (0, 0), 1.2).astype(np.float32) / 255
    return soft


def _seal(view: View) -> Field:
    """A rubber ring of round section."""
    across = (view.radius - SEAL) / SEAL_HALF_WIDTH
    light = 0.55 + 0.40 * across * view.facing + 0.35 * np.clip(1 - across**2, 0, 1)
    gloss = 0.22 * np.exp(-(((across - 0.55 * view.facing) / 0.22) ** 2)) * np.abs(view.facing) ** 3
    seal: Field = RUBBER * light[..., None] + gloss[..., None]
    return seal


def _assemble(view: View, surface: Surface, belt: Field, pose: Pose) -> Field:
    """Disc, chamfers, seal in its groove, bore and holes, one upon the other."""
    bore = np.minimum(view.radius - BORE, _slot(view))
    holes, hole_facing = _holes(view, pose)
    bevels = _bevel(RIM - view.radius, view.facing) * _bevel(bore, -view.facing)
    image = surface.steel * (bevels * _bevel(holes, -hole_facing, COUNTERSINK))[..., None]

    across = (view.radius - SEAL) / SEAL_HALF_WIDTH
    floor = STEEL * (0.34 - 0.15 * across * view.facing)[..., None]
    seal_there = surface.seal_present * view.coverage((np.abs(across) - 0.88) * SEAL_HALF_WIDTH)
    groove = _mix(floor, surface.seal, seal_there)
    image = _mix(image, groove, view.coverage((np.abs(across) - 1.0) * SEAL_HALF_WIDTH))

    for inside, facing, reach, floor_colour in (
        (bore, view.facing, 0.03, belt * 0.75),
        (holes, hole_facing, HOLE, STEEL * 0.05),
    ):
        wall = np.clip(-facing, 0.0, 1.0) * np.clip(1 + inside / reach, 0.0, 1.0)  # the lit side of the opening
        opening = floor_colour + STEEL * (0.3 * wall)[..., None]
        image = _mix(image, opening, view.coverage(inside))
    return _mix(belt, image, view.coverage(surface.body))


def _slot(view: View) -> Field:
    distance: Field = np.maximum(np.abs(view.x) - SLOT_HALF_WIDTH, np.maximum(view.y, -view.y - SLOT_END))
    return distance


def _holes(view: View, pose: Pose) -> tuple[Field, Field]:
    """Signed distance to the nearest bolt hole, and how much the direction from its middle faces the light."""
    step = np.float32(2 * np.pi / HOLES)
    nearest = np.rint(np.arctan2(view.y, view.x) / step) * step
    x, y = view.x - HOLE_CIRCLE * np.cos(nearest), view.y - HOLE_CIRCLE * np.sin(nearest)
    distance = np.hypot(x, y)
    light = pose.light - pose.angle
    return distance - HOLE, (x * np.float32(np.cos(light)) + y * np.float32(np.sin(light))) / (distance + 1e-6)


def _bevel(inward: Field, facing: Field, width: float = CHAMFER) -> Field:
    """Brightness of a chamfer along an edge; `inward` is the distance from that edge onto the part."""
    on_bevel = np.clip((width - inward) / (0.12 * width), 0.0, 1.0)
    brightness: Field = 1.0 + on_bevel * (0.42 * facing - 0.12)
    return brightness


def _mix(below: Field, above: Field, coverage: Field) -> Field:
    mixed: Field = below + (above - below) * coverage[..., None]
    return mixed
