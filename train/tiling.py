"""A square image as square tiles that overlap, and the maps of its tiles as one map without seams. Knows no model.

Shape letters: n images, k tiles of each that are used, t x t pixels of a tile, c channels.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


@dataclass(frozen=True)
class Tiling:
    """Tiles row by row; neighbours share `overlap` pixels, and more where the last are pushed back into the image."""

    size: int  # side of the image, pixels
    tile: int  # side of a tile; `size` itself: the image is its only tile
    overlap: int = 0
    chosen: tuple[int, ...] | None = None  # numbers of the tiles that are used; None: all of them

    @property
    def is_whole(self) -> bool:
        return self.tile == self.size

    def __len__(self) -> int:
        """Tiles of one image that are used."""
        return len(self.corners)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where tiles begin, along either axis."""
        last = self.size - self.tile
        return (*range(0, last, self.tile - self.overlap), last)

    @cached_property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """(top, left) of each tile that is used."""
        grid = tuple((top, left) for top in self.starts for left in self.starts)
        return grid if self.chosen is None else tuple(grid[number] for number in self.chosen)

    def over(self, judged: Bool[np.ndarray, "_size _size"]) -> "Tiling":
        """Only the tiles that hold a judged pixel."""
        every = replace(self, chosen=None)
        return replace(self, chosen=tuple(number for number in range(len(every)) if every.part(judged, number).any()))

    def part(self, image: Shaped[np.ndarray, "_size _size *c"], number: int) -> Shaped[np.ndarray, "t t *c"]:
        """One tile, as a view."""
        top, left = self.corners[number]
        return image[top : top + self.tile, left : left + self.tile]

    def parts(self, images: Shaped[Array, "n _size _size c"], index: Int[Array, " m"]) -> Shaped[Array, "m t t c"]:
        """Tiles by their numbers over all images: number i is tile i % k of image i // k. Traceable."""
        if self.is_whole:
            return images[index]
        shape = (1, self.tile, self.tile, images.shape[-1])

        def one(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(images, (image, corner[0], corner[1], 0), shape)[0]

        return jax.vmap(one)(index // len(self), jnp.asarray(self.corners, index.dtype)[index % len(self)])

    def cut(self, images: Shaped[Array, "n _size _size *c"]) -> Shaped[Array, "_n_k t t *c"]:
        """All tiles of every image, image by image. Traceable with any n."""
        if self.is_whole:
            return images
        n, rest = images.shape[0], images.shape[3:]
        rows = jnp.concatenate([images[:, None, start : start + self.tile] for start in self.starts], axis=1)
        tiles = jnp.concatenate([rows[:, :, None, :, start : start + self.tile] for start in self.starts], axis=2)
        tiles = tiles.reshape(n, len(self.starts) ** 2, self.tile, self.tile, *rest)
        if self.chosen is not None:
            tiles = tiles[:, np.array(self.chosen)]
        return tiles.reshape(n * len(self), self.tile, self.tile, *rest)

    def blend(self, maps: Float[Array, "_n_k t t"]) -> Float[Array, "n _size _size"]:
        """One map per image: where tiles meet, a mean with `weights`. Traceable with any n.

        Pixels of tiles that are not used hold anything.
        """
        if self.is_whole:
            return maps
        side, t = len(self.starts), self.tile
        n = maps.shape[0] // len(self)
        tiles = maps.reshape(n, len(self), t, t)
        if self.chosen is not None and len(self) < side**2:
            place = {number: place for place, number in enumerate(self.chosen)}
            tiles = tiles[:, np.array([place.get(number, 0) for number in range(side**2)])]
        tiles = tiles.reshape(n, side, side, t, t) * self.weights[:, None, :]
        rows = self._joined([tiles[:, :, column] for column in range(side)], axis=3) * self.weights[:, :, None]
        return self._joined([rows[:, row] for row in range(side)], axis=1)

    @cached_property
    def weights(self) -> Float[np.ndarray, "_side t"]:
        """Of each tile's pixels along an axis: they fall linearly over what two neighbours share, and sum to 1.

        Where a tile was pushed back so far that three meet, their weights are divided by their sum.
        """
        profiles = np.ones((len(self.starts), self.tile))
        for place, (start, following) in enumerate(pairwise(self.starts)):
            if shared := start + self.tile - following:
                rising = (np.arange(shared) + 0.5) / shared
                profiles[place + 1, :shared] = rising
                profiles[place, -shared:] = np.minimum(profiles[place, -shared:], rising[::-1])
        total = np.zeros(self.size)
        for start, profile in zip(self.starts, profiles, strict=True):
            total[start : start + self.tile] += profile
        shares = [
            profile / total[start : start + self.tile] for start, profile in zip(self.starts, profiles, strict=True)
        ]
        return np.array(shares, np.float32)

    def _joined(self, tiles: list[Float[Array, "..."]], axis: int) -> Float[Array, "..."]:
        """Weighted tiles of one line added up at their places: stretch by stretch between the tiles' ends."""
        ends = sorted({*self.starts, *(start + self.tile for start in self.starts)})
        stretches = []
        for begin, end in pairwise(ends):
            there = [
                jax.lax.slice_in_dim(tile, begin - start, end - start, axis=axis)
                for start, tile in zip(self.starts, tiles, strict=True)
                if start <= begin and end <= start + self.tile
            ]
            stretches.append(sum(there[1:], there[0]))
        return jnp.concatenate(stretches, axis=axis)
