"""Synthetic corruption of good images: Stain and the other noise models that AESc's authors compare.

Exact sampling rules: sheet "Stain noise model" and "Other noise models compared". Every function takes one key per
image and is built of fixed shapes, so it runs inside the jitted training step. Differences from the authors'
rasterising code, all in the sheet: the outline has 20 points at equal angles instead of every n/20-th outline pixel,
and its cubic runs through the radius over the polar angle, both taken in the frame where the ellipse is the unit circle
(a linear map, so order and star shape are the same); Gaussian is N(0, 0.1^2), clipped; drops are spaced by about one
radius.
Shape letters: n images, h x w pixels, c channels.
"""

import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

NoiseModel = Literal["none", "stain", "gaussian", "scratch", "drops", "structural", "stain_or_gaussian"]
NOISE_MODELS: tuple[str, ...] = get_args(NoiseModel)

CONTROL_POINTS = 20
FILL_DEVIATION = math.sqrt(0.05 / 255)  # of the flat fill, on [0, 1]; 3.6 grey levels
DROPS = 10


class Stain(NamedTuple):
    """Settings of the stain model; the defaults are the paper's by its authors' code."""

    smallest: float = 0.01  # semi-axis as a share of the image's side
    largest: float = 0.12
    darkest: int = 10  # grey level of the fill
    brightest: int = 220
    irregularity: float = 0.1  # jitter of the outline as a share of the mean semi-axis
    blur: float = 0.0  # Gaussian sigma as a share of the larger semi-axis; 0 is a hard edge


def corrupt(
    key: PRNGKeyArray, images: Float[Array, "n h w c"], model: NoiseModel, stain: Stain = Stain()
) -> Float[Array, "n h w c"]:
    """Each image of [0, 1] corrupted by its own draw, rounded to whole grey levels as an 8-bit image would be."""
    if model == "none":
        return images
    one = {
        "stain": lambda key, image: add_stain(key, image, stain),
        "gaussian": lambda key, image: add_gaussian(key, image, variance=0.01),
        "scratch": add_scratch,
        "drops": add_drops,
        "structural": _structural,
        "stain_or_gaussian": _stain_or_gaussian,
    }[model]
    corrupted = jax.vmap(one)(jax.random.split(key, images.shape[0]), images)
    return jnp.round(corrupted * 255) / 255


def add_stain(key: PRNGKeyArray, image: Float[Array, "h w c"], stain: Stain = Stain()) -> Float[Array, "h w c"]:
    """One irregular ellipse of nearly flat grey. Sheet: steps 1 to 9."""
    h, w, c = image.shape
    key_mask, key_level, key_fill = jax.random.split(key, 3)
    mask, top, left = _stain_window(key_mask, h, w, stain)
    fill = _flat_fill(key_level, key_fill, (*mask.shape, c), stain.darkest, stain.brightest)
    window = jax.lax.dynamic_slice(image, (top, left, 0), (*mask.shape, c))
    window = window * (1 - mask[..., None]) + fill * mask[..., None]
    return jax.lax.dynamic_update_slice(image, window, (top, left, 0))


def stain_mask(key: PRNGKeyArray, height: int, width: int, stain: Stain = Stain()) -> Float[Array, "h w"]:
    """The mask that `add_stain` blends with, on the whole image; 1 inside."""
    mask, top, left = _stain_window(jax.random.split(key, 3)[0], height, width, stain)
    return jax.lax.dynamic_update_slice(jnp.zeros((height, width)), mask, (top, left))


def _stain_window(key: PRNGKeyArray, h: int, w: int, stain: Stain) -> tuple[Float[Array, "s t"], Array, Array]:
    """Mask in a window just large enough for any stain, and where the window lies: [s, t], top, left."""
    key_a, key_b, key_angle, key_y, key_x, key_jitter = jax.random.split(key, 6)
    a = _semi_axis(key_a, w, stain)
    b = _semi_axis(key_b, h, stain)
    margin = jnp.maximum(a, b)
    center_y = jax.random.uniform(key_y, minval=margin, maxval=h - margin)
    center_x = jax.random.uniform(key_x, minval=margin, maxval=w - margin)
    angle = jax.random.uniform(key_angle, maxval=2 * jnp.pi)

    # Outline: points of the ellipse, each moved by whole pixels in row and column, seen in the unit circle's frame.
    delta = jnp.floor(stain.irregularity * (a + b) / 2).astype(jnp.int32)
    jitter = jax.random.randint(key_jitter, (2, CONTROL_POINTS), -delta, delta + 1).astype(jnp.float32)
    t = 2 * jnp.pi * jnp.arange(CONTROL_POINTS) / CONTROL_POINTS
    u, v = jnp.cos(t), jnp.sin(t)
    jitter_u, jitter_v = _rotate(jitter[0], jitter[1], -angle)
    u, v = u + jitter_u / a, v + jitter_v / b
    polar = jnp.arctan2(v, u)
    order = jnp.argsort(polar)
    knots, radii = polar[order], jnp.hypot(u, v)[order]

    largest = max(math.floor(stain.largest * h), math.floor(stain.largest * w), 1)
    reach = math.ceil(1.25 * largest * (1 + stain.irregularity) + 3 * stain.blur * largest) + 1
    size_y, size_x = min(2 * reach, h), min(2 * reach, w)
    top = jnp.clip(jnp.floor(center_y).astype(jnp.int32) - size_y // 2, 0, h - size_y)
    left = jnp.clip(jnp.floor(center_x).astype(jnp.int32) - size_x // 2, 0, w - size_x)
    dy = (top + jnp.arange(size_y) - center_y)[:, None]
    dx = (left + jnp.arange(size_x) - center_x)[None, :]
    x, y = _rotate(dx, dy, -angle)
    x, y = x / a, y / b
    mask = (jnp.hypot(x, y) < _periodic_cubic(jnp.arctan2(y, x), knots, radii)).astype(jnp.float32)
    if stain.blur > 0:
        mask = _gaussian_filter(mask, stain.blur * jnp.maximum(a, b))
    return mask, top, left


def _semi_axis(key: PRNGKeyArray, side: int, stain: Stain) -> Float[Array, ""]:
    """Whole pixels, at least 1."""
    low, high = math.floor(stain.smallest * side), math.floor(stain.largest * side)
    return jnp.maximum(jax.random.randint(key, (), low, high + 1), 1).astype(jnp.float32)


def _rotate(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _periodic_cubic(at: Array, knots: Float[Array, " k"], values: Float[Array, " k"]) -> Array:
    """Catmull-Rom spline of period 2 pi through (knots, values), knots ascending in [-pi, pi)."""
    period = 2 * jnp.pi
    x = jnp.concatenate([knots[-2:] - period, knots, knots[:2] + period])
    y = jnp.concatenate([values[-2:], values, values[:2]])
    slope = (y[2:] - y[:-2]) / jnp.maximum(x[2:] - x[:-2], 1e-3)  # at x[1:-1]
    i = jnp.sum(at[..., None] >= x[1:-1], axis=-1) - 1  # segment of x[1:-1] that `at` lies in
    x0, x1, y0, y1, m0, m1 = x[1:-1][i], x[1:-1][i + 1], y[1:-1][i], y[1:-1][i + 1], slope[i], slope[i + 1]
    d = jnp.maximum(x1 - x0, 1e-6)
    s = (at - x0) / d
    value = (1 + 2 * s) * (1 - s) ** 2 * y0 + s * (1 - s) ** 2 * d * m0
    value += s**2 * (3 - 2 * s) * y1 + s**2 * (s - 1) * d * m1
    return jnp.clip(value, 0, 2)


def _gaussian_filter(mask: Float[Array, "h w"], sigma: Array) -> Float[Array, "h w"]:
    """Separable, as two matrix products; zero outside."""

    def matrix(size: int) -> Array:
        distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
        # Columns of the full kernel sum to 1; the window is wide enough to lose nothing of a mask inside it.
        return jnp.exp(-0.5 * (distance / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))

    return jnp.clip(matrix(mask.shape[0]) @ mask @ matrix(mask.shape[1]).T, 0, 1)


def _flat_fill(
    key_level: PRNGKeyArray, key_fill: PRNGKeyArray, shape: tuple[int, ...], darkest: int, brightest: int
) -> Array:
    """A grey level drawn uniformly, the same mean in all channels, with faint Gaussian grain; on [0, 1]."""
    level = jax.random.randint(key_level, (), darkest, brightest + 1) / 255
    return jnp.clip(level + FILL_DEVIATION * jax.random.normal(key_fill, shape), 0, 1)


def add_gaussian(key: PRNGKeyArray, image: Float[Array, "h w c"], variance: float = 0.01) -> Float[Array, "h w c"]:
    """Additive noise N(0, variance) on [0, 1], clipped."""
    return jnp.clip(image + math.sqrt(variance) * jax.random.normal(key, image.shape), 0, 1)


def add_scratch(
    key: PRNGKeyArray, image: Float[Array, "h w c"], darkest: int = 150, brightest: int = 150
) -> Float[Array, "h w c"]:
    """A thin curve (line, sine or root) from the central two thirds, 3 x 3 px brush, rough grey fill."""
    h, w, _ = image.shape
    key_y, key_x, key_length, key_curve, key_sign, key_level, key_fill = jax.random.split(key, 7)
    start_y = jax.random.randint(key_y, (), h // 6, h - h // 6)
    start_x = jax.random.randint(key_x, (), w // 6, w - w // 6)
    length = jax.random.randint(key_length, (), jnp.minimum(start_x, w - 1), w) / 4  # U{start..size} / 4
    t = jnp.arange(math.ceil(w / 4 / 0.1)) * 0.1
    curves = jnp.stack([2 * t, 16 * jnp.sin(jnp.deg2rad(4 * t)), 10 * jnp.sqrt(t)])
    along = curves[jax.random.randint(key_curve, (), 0, 3)]
    signs = jax.random.rademacher(key_sign, (2,))
    rows = jnp.round(start_y + signs[0] * along).astype(jnp.int32)
    cols = jnp.round(start_x + signs[1] * t).astype(jnp.int32)
    drawn = (t <= length) & (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    mask = jnp.zeros((h, w)).at[jnp.where(drawn, rows, h), jnp.where(drawn, cols, w)].max(1.0, mode="drop")
    brush = [jnp.roll(mask, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    mask = jnp.max(jnp.stack(brush), axis=0)[..., None]
    level = jax.random.randint(key_level, (), darkest, brightest + 1)
    fill = jnp.clip((level + 20 * jax.random.normal(key_fill, (h, w, 1))) / 255, 0, 1)
    return image * (1 - mask) + fill * mask


def add_drops(key: PRNGKeyArray, image: Float[Array, "h w c"], spacing: float = 10.0) -> Float[Array, "h w c"]:
    """Ten small discs around one point, filled as a stain. With the code's spacing of 0.1 they would coincide."""
    h, w, c = image.shape
    key_y, key_x, key_radius, key_offset, key_level, key_fill = jax.random.split(key, 6)
    radius = jax.random.uniform(key_radius, (DROPS,), minval=0.01 * w, maxval=0.02 * w) + 1
    margin = 0.12 * max(h, w)
    center_y = jax.random.uniform(key_y, minval=margin, maxval=h - margin)
    center_x = jax.random.uniform(key_x, minval=margin, maxval=w - margin)
    offset = spacing * radius / 10 * jax.random.normal(key_offset, (2, DROPS))
    dy = jnp.arange(h)[:, None, None] - (center_y + offset[0])
    dx = jnp.arange(w)[None, :, None] - (center_x + offset[1])
    mask: Bool[Array, "h w"] = jnp.any(dy**2 + dx**2 < radius**2, axis=-1)
    defaults = Stain()
    fill = _flat_fill(key_level, key_fill, (h, w, c), defaults.darkest, defaults.brightest)
    return jnp.where(mask[..., None], fill, image)


def _structural(key: PRNGKeyArray, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Mix: stain 0.6 with blur 0.15, scratch 0.2 over the whole range of grey, drops 0.2."""
    key_which, key_noise = jax.random.split(key)
    which = jax.random.uniform(key_which)
    stained = add_stain(key_noise, image, Stain(blur=0.15))
    scratched = add_scratch(key_noise, image, darkest=10, brightest=220)
    return jnp.where(which < 0.6, stained, jnp.where(which < 0.8, scratched, add_drops(key_noise, image)))


def _stain_or_gaussian(key: PRNGKeyArray, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Mix: stain 0.6 with blur 0.15, Gaussian of variance 0.1 with 0.4."""
    key_which, key_noise = jax.random.split(key)
    stained = add_stain(key_noise, image, Stain(blur=0.15))
    return jnp.where(jax.random.uniform(key_which) < 0.6, stained, add_gaussian(key_noise, image, variance=0.1))
