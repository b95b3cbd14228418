"""What the training step is fed: images or their tiles, or what a detector's frozen part makes of them.

Nothing augments before the frozen part, so its outputs are computed once and kept where they fit
(`resident_limit_mb`); where they don't, the images are kept and it runs inside the step; where those don't fit either,
images stream from disk.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, UInt8

from edge_agent.preprocess import Preprocessing
from train.chunks import chunks
from train.config import RunConfig
from train.data.batches import MEGABYTE, fits, load_images, resident_batches, streamed_batches
from train.data.folder import Sample
from train.detectors import Detector
from train.loop import by_index
from train.mask import Mask
from train.players import batches_per_step
from train.progress import Work
from train.tiling import Tiling

ENCODED_AT_ONCE = 8  # inputs
JUDGED = 255  # in the fourth channel


@dataclass(frozen=True)
class TrainingInputs:
    """Batches of a run, the same for the same seed wherever they are kept."""

    resident: Any  # what stays on the device, handed to every step
    inputs_of: Callable[[Array, Any], Any]  # (batch, resident) -> inputs of the trained network; traceable
    batches: Callable[[int, int], Iterator[np.ndarray]]  # (first step, last step + 1)
    all: Callable[[], Iterator[Any]]  # the inputs of every training image once, some at a time


@dataclass(frozen=True, eq=False)
class Parts:
    """What of an image is an input: all of it, or each of its tiles; under a mask with a fourth channel, the mask.

    Inputs are numbered image by image. Tiles without a judged pixel are none.
    """

    tiling: Tiling
    mask: Mask | None

    def __len__(self) -> int:
        """Inputs that an image gives."""
        return len(self.tiling)

    @property
    def is_the_image(self) -> bool:
        return self.tiling.is_whole and self.mask is None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.tiling.tile, self.tiling.tile, 3 if self.mask is None else 4

    def one(self, image: UInt8[np.ndarray, "_size _size 3"], number: int) -> UInt8[np.ndarray, "h w c"]:
        """An input of one image."""
        pixels = self.tiling.part(image, number)
        if self.mask is None:
            return pixels
        judged = self.tiling.part(self.mask, number).astype(np.uint8) * JUDGED
        return np.concatenate([pixels, judged[..., None]], axis=-1)

    def some(self, images: UInt8[Array, "m _size _size 3"], index: Int[Array, " n"]) -> UInt8[Array, "n h w c"]:
        """Inputs by their numbers over all images; traceable."""
        pixels = self.tiling.parts(images, index)
        if self.mask is None:
            return pixels
        mask = jnp.asarray(self.mask[None, ..., None].astype(np.uint8) * JUDGED)
        return jnp.concatenate([pixels, self.tiling.parts(mask, index % len(self))], axis=-1)


def parts_of(detector: Detector, config: RunConfig, mask: Mask | None) -> Parts:
    tiling = detector.tiling(config)
    return Parts(tiling if mask is None else tiling.over(mask), mask)


def training_inputs(
    detector: Detector,
    config: RunConfig,
    frozen: nnx.Module | None,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    mask: Mask | None = None,
) -> TrainingInputs:
    """Reads (and encodes) the training images as far as they may stay in memory."""
    paths, parts = [sample.path for sample in samples], parts_of(detector, config, mask)
    count, seed = len(samples) * len(parts), config.seed
    batch = config.batch_size * batches_per_step(detector.phases(config))

    def by_position(start: int, stop: int) -> Iterator[np.ndarray]:
        return resident_batches(count, seed, start=start, stop=stop, batch=batch)

    def by_file(start: int, stop: int) -> Iterator[np.ndarray]:
        return streamed_batches(
            paths, preprocessing, seed, start=start, stop=stop, batch=batch, parts=len(parts), part=parts.one
        )

    def encoded(images: Any, module: Any) -> Any:
        return images if detector.frozen is None else detector.frozen.encode(module, images, config)

    def slices_of_files() -> Iterator[Any]:
        def load(first: int, stop: int) -> np.ndarray:
            return load_images(paths[first:stop], preprocessing)

        return _slices(detector, config, frozen, parts, load, len(samples))

    if not fits(len(samples), preprocessing, config.resident_limit_mb):
        return TrainingInputs(frozen, encoded, by_file, slices_of_files)
    with Work("reading images", len(samples)) as work:
        images = load_images(paths, preprocessing, work.done)
    if detector.frozen is None and parts.is_the_image:
        return TrainingInputs(jnp.asarray(images), by_index, by_position, lambda: iter([images]))
    size = _bytes_per_input(detector, config, frozen, parts)
    if detector.frozen is None or size * count > config.resident_limit_mb * MEGABYTE:

        def by_image(index: Array, resident: Any) -> Any:
            return encoded(parts.some(resident[0], index), resident[1])

        return TrainingInputs((jnp.asarray(images), frozen), by_image, by_position, slices_of_files)
    inputs = encode_all(detector, config, frozen, images, mask)

    def slices() -> Iterator[Any]:
        for start in range(0, count, ENCODED_AT_ONCE):
            yield jax.tree.map(lambda x, start=start: x[start : start + ENCODED_AT_ONCE], inputs)

    return TrainingInputs(jax.tree.map(jnp.asarray, inputs), by_index, by_position, slices)


def encode_all(
    detector: Detector,
    config: RunConfig,
    frozen: nnx.Module | None,
    images: UInt8[np.ndarray, "n h w 3"],
    mask: Mask | None = None,
) -> Any:
    """Inputs of all images, on the host; the images themselves where nothing is frozen, cut or masked."""
    parts, some = parts_of(detector, config, mask), []
    if detector.frozen is None and parts.is_the_image:
        return images
    task = f"running the {detector.frozen.name}" if detector.frozen else "cutting images"
    with Work(task, len(images) * len(parts)) as work:
        for inputs in _slices(detector, config, frozen, parts, lambda first, stop: images[first:stop], len(images)):
            some.append(inputs)
            work.done(len(jax.tree.leaves(inputs)[0]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *some)


def _slices(
    detector: Detector,
    config: RunConfig,
    frozen: nnx.Module | None,
    parts: Parts,
    load: Callable[[int, int], np.ndarray],
    n_images: int,
) -> Iterator[Any]:
    """All inputs in order, on the host, some at a time. `load(first, stop)` gives images."""
    encode = None if detector.frozen is None else jax.jit(partial(_encode, detector.frozen.encode, config))
    images_at_once = max(ENCODED_AT_ONCE // len(parts), 1)
    most = images_at_once * len(parts)
    at_once = math.ceil(most / math.ceil(most / ENCODED_AT_ONCE))
    for first in range(0, n_images, images_at_once):
        images = load(first, min(first + images_at_once, n_images))
        cut = np.stack([parts.one(image, number) for image in images for number in range(len(parts))])
        if encode is None:
            yield from (cut[start : start + at_once] for start in range(0, len(cut), at_once))
        else:
            yield from chunks(partial(encode, frozen), cut, at_once)


def _encode(encode: Any, config: RunConfig, module: Any, images: Array) -> Any:
    return encode(module, images, config)


def _bytes_per_input(detector: Detector, config: RunConfig, frozen: nnx.Module | None, parts: Parts) -> int:
    if detector.frozen is None:
        return math.prod(parts.shape)
    image = jax.ShapeDtypeStruct((1, *parts.shape), jnp.uint8)  # type: ignore[no-untyped-call]
    shapes = jax.eval_shape(partial(_encode, detector.frozen.encode, config), frozen, image)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
