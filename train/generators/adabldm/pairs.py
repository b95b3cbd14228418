"""Training pairs by copy and paste: a real defect, turned and scaled, on a normal image; made on the device.

Sheet: "Training recipe" and "Pitfalls" 6. The authors try places until one fits. Here all are tried at once, by a
correlation, and one that fits is drawn with equal chances; a defect that fits nowhere is made smaller, a bounded number
of times. Shape letters: n pairs, s x s pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8

from train.generators.adabldm.trimap import BACKGROUND, DEFECT, FOREGROUND

Image = Float[Array, "s s 3"]
Mask = Bool[Array, "s s"]
Place = Float[Array, "s s 2"]  # row and column

SHRINKS = 12  # at most
SHRINK = 0.75  # each time
NEAR_ZERO = 0.5  # counts of pixels by Fourier transforms are rounded


@dataclass(frozen=True)
class Turns:
    """How a defect is changed before it is pasted."""

    degrees: tuple[float, float] = (0.0, 360.0)
    scale: tuple[float, float] = (0.85, 1.15)
    normal_share: float = 0.0  # of the pairs, that show no defect: their trimap has two levels


class Sources(NamedTuple):
    """What a pair is made of, as it lies in memory."""

    normal: UInt8[Array, "n s s 3"]
    foreground: Bool[Array, "n s s"]  # of the normal image
    defective: UInt8[Array, "n s s 3"]
    mask: Bool[Array, "n s s"]  # of its defect
    prompt: Int[Array, " n"]  # number of the prompt that names it


class Pairs(NamedTuple):
    image: Float[Array, "n s s 3"]  # grey levels from 0 to 255
    trimap: Float[Array, "n s s"]
    prompt: Int[Array, " n"]


class Pasted(NamedTuple):
    image: Image
    mask: Mask


def make_pairs(sources: Sources, keys: Key[Array, " n"], normal_prompt: int, turns: Turns) -> Pairs:
    """Traceable; a pair depends on its own sources and key alone. `normal_prompt` is the one without a defect."""

    def one(sources: Sources, key: PRNGKeyArray) -> Pairs:
        for_coin, for_place = jax.random.split(key)
        normal = sources.normal.astype(jnp.float32)
        pasted = paste(normal, sources.foreground, sources.defective, sources.mask, for_place, turns)
        plain = jax.random.bernoulli(for_coin, turns.normal_share)
        mask = pasted.mask & ~plain
        return Pairs(
            jnp.where(mask[..., None], pasted.image, normal),
            trimap_of(mask, sources.foreground),
            jnp.where(plain, normal_prompt, sources.prompt),
        )

    pairs: Pairs = jax.vmap(one)(sources, keys)
    return pairs


def trimap_of(mask: Mask, foreground: Mask) -> Float[Array, "s s"]:
    return jnp.where(mask, DEFECT, jnp.where(foreground, FOREGROUND, BACKGROUND))


def paste(
    normal: Image, foreground: Mask, defective: UInt8[Array, "s s 3"], mask: Mask, key: PRNGKeyArray, turns: Turns
) -> Pasted:
    """A defect in the foreground of a normal image; the mask is empty where there is no foreground, or no defect."""
    placed = place(mask, foreground, key, turns)
    colours = _bilinear(defective.astype(jnp.float32), placed.source)
    return Pasted(jnp.where(placed.mask[..., None], colours, normal), placed.mask)


class Placed(NamedTuple):
    mask: Mask
    source: Place  # where each pixel comes from


def place(mask: Mask, foreground: Mask, key: PRNGKeyArray, turns: Turns) -> Placed:
    """A mask turned, scaled and moved to one of all places in which it lies within the foreground."""
    for_angle, for_scale, for_spot = jax.random.split(key, 3)
    size = mask.shape[0]
    angle = jnp.deg2rad(jax.random.uniform(for_angle, (), minval=turns.degrees[0], maxval=turns.degrees[1]))
    scale = jax.random.uniform(for_scale, (), minval=turns.scale[0], maxval=turns.scale[1])
    centre, reach = _centre_and_reach(mask)
    outside = jnp.fft.rfft2((~foreground).astype(jnp.float32))

    def source_of(shrinks: Array) -> Place:
        return _turned_back(size, centre, angle, scale * SHRINK**shrinks)

    def turned(shrinks: Array) -> Mask:
        uncut = reach * scale * SHRINK**shrinks <= (size - 1) // 2
        return _nearest(mask, source_of(shrinks)) & uncut

    def fits_nowhere(shrinks: Array) -> Array:
        small = turned(shrinks)
        return ~(small.any() & _places(small, outside).any())

    shrinks = jax.lax.while_loop(
        lambda shrinks: (shrinks < SHRINKS) & fits_nowhere(shrinks), lambda shrinks: shrinks + 1, jnp.float32(0)
    )
    pixel = jnp.zeros_like(mask).at[size // 2, size // 2].set(mask.any())  # what is left of it at last
    small = jnp.where(shrinks < SHRINKS, turned(shrinks), pixel)
    shift = _drawn_from(_places(small, outside), for_spot)
    moved = jnp.roll(small, shift, axis=(0, 1)) & foreground  # without any foreground: nothing
    return Placed(moved, jnp.roll(source_of(shrinks), shift, axis=(0, 1)))


def _centre_and_reach(mask: Mask) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """The middle of the box around a mask, and how far its pixels lie from there."""
    grid = _grid(mask.shape[0])
    inside = mask[..., None]
    low, high = jnp.where(inside, grid, jnp.inf).min((0, 1)), jnp.where(inside, grid, -jnp.inf).max((0, 1))
    centre = jnp.where(mask.any(), (low + high) / 2, 0.0)
    return centre, jnp.where(mask, jnp.linalg.norm(grid - centre, axis=-1), 0.0).max()


def _turned_back(size: int, centre: Float[Array, "2"], angle: Array, scale: Array) -> Place:
    """Where each pixel comes from when `centre` comes to the middle of the image, turned and scaled around it."""
    down, right = jnp.moveaxis((_grid(size) - size // 2) / scale, -1, 0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return centre + jnp.stack([cos * down + sin * right, cos * right - sin * down], axis=-1)


def _places(mask: Mask, outside: Array) -> Mask:
    """By which shifts, modulo the size, no pixel of the mask comes to lie outside, or beyond the frame."""
    size = mask.shape[0]
    count = jnp.fft.irfft2(jnp.conj(jnp.fft.rfft2(mask.astype(jnp.float32))) * outside, (size, size))
    rows, columns = (_unbroken(mask.any(axis)) for axis in (1, 0))
    return (count < NEAR_ZERO) & rows[:, None] & columns


def _unbroken(occupied: Bool[Array, " s"]) -> Bool[Array, " s"]:
    """By which shifts modulo the size what is occupied stays in one piece."""
    size, shift = len(occupied), jnp.arange(len(occupied))
    first, last = jnp.argmax(occupied), size - 1 - jnp.argmax(occupied[::-1])
    return (last + shift < size) | (first + shift >= size)


def _drawn_from(places: Mask, key: PRNGKeyArray) -> Int[Array, "2"]:
    """One of them, with equal chances."""
    number = jax.random.randint(key, (), 0, jnp.maximum(places.sum(), 1))
    return jnp.stack(jnp.divmod(jnp.argmax(jnp.cumsum(places) > number), places.shape[1]))


def _nearest(mask: Mask, source: Place) -> Mask:
    index = jnp.round(source).astype(jnp.int32)
    known = ((index >= 0) & (index < mask.shape[0])).all(axis=-1)
    row, column = jnp.moveaxis(jnp.clip(index, 0, mask.shape[0] - 1), -1, 0)
    return mask[row, column] & known


def _bilinear(image: Image, source: Place) -> Image:
    places = [source[..., 0], source[..., 1]]
    channels = [jax.scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)]
    return jnp.stack(channels, axis=-1)


def _grid(size: int) -> Place:
    return jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"), -1).astype(jnp.float32)
