"""Batches of one product's good images, the same for the same seed whether they are resident or streamed.

One order, Grain's, serves both: a set that fits on the device is loaded once as uint8 and the step is given indices; a
larger one is decoded by Grain's threads while the device works, and the step is given images.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import grain
import numpy as np
from jaxtyping import Int, UInt8

from edge_agent.preprocess import Preprocessing, prepare, read_image

MEGABYTE = 1024 * 1024


def load_images(
    paths: Sequence[Path], preprocessing: Preprocessing, on_image: Callable[[], None] = lambda: None
) -> UInt8[np.ndarray, "n h w 3"]:
    """All images, decoded, cropped and resized; `on_image` is called after each."""
    images = np.empty((len(paths), preprocessing.height, preprocessing.width, 3), np.uint8)

    def load(index: int) -> None:
        images[index] = prepare(read_image(paths[index]), preprocessing)
        on_image()

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        for _ in pool.map(load, range(len(paths))):
            pass
    return images


def fits(count: int, preprocessing: Preprocessing, limit_mb: int) -> bool:
    """Whether `count` images at model size stay below the limit."""
    return count * preprocessing.height * preprocessing.width * 3 <= limit_mb * MEGABYTE


def sample_order(count: int, seed: int) -> grain.MapDataset[int]:
    """Position -> index: pass after pass over all images, each shuffled anew from the seed, without end."""
    return grain.MapDataset.range(count).shuffle(seed=seed).repeat(None)


def resident_batches(count: int, seed: int, *, start: int, stop: int, batch: int) -> Iterator[Int[np.ndarray, " n"]]:
    """Indices of the batches of steps start to stop - 1."""
    order = sample_order(count, seed)
    for step in range(start, stop):
        yield np.array([order[position] for position in range(step * batch, (step + 1) * batch)], np.int32)


def streamed_batches(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    seed: int,
    *,
    start: int,
    stop: int,
    batch: int,
    parts: int = 1,
    part: Callable[[np.ndarray, int], np.ndarray] = lambda image, number: image,
) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
    """Images of the batches of steps start to stop - 1, read ahead by threads.

    Where an image gives several inputs, `part(image, number)` makes each of the `parts`; they are shuffled as one set.
    """
    order = sample_order(len(paths) * parts, seed)[start * batch : stop * batch]
    images = order.map(lambda index: part(prepare(read_image(paths[index // parts]), preprocessing), index % parts))
    options = grain.ReadOptions(num_threads=cpu_count() or 1, prefetch_buffer_size=4 * batch)
    yield from images.to_iter_dataset(options).batch(batch, drop_remainder=True)


def stacked(batches: Iterator[np.ndarray], per_dispatch: int) -> Iterator[np.ndarray]:
    """[n, ...] -> [k, n, ...], k = per_dispatch, the last one shorter if need be."""
    group: list[np.ndarray] = []
    for batch in batches:
        group.append(batch)
        if len(group) == per_dispatch:
            yield np.stack(group)
            group = []
    if group:
        yield np.stack(group)
