"""What the training step is fed: images, or what a detector's frozen part makes of them.

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
from jaxtyping import Array, UInt8

from edge_agent.preprocess import Preprocessing
from train.config import RunConfig
from train.data.batches import MEGABYTE, fits, load_images, resident_batches, streamed_batches
from train.data.folder import Sample
from train.detectors import Detector
from train.loop import by_index
from train.progress import Work

ENCODED_AT_ONCE = 8  # images


@dataclass(frozen=True)
class TrainingInputs:
    """Batches of a run, the same for the same seed wherever they are kept."""

    resident: Any  # what stays on the device, handed to every step
    inputs_of: Callable[[Array, Any], Any]  # (batch, resident) -> inputs of the trained network; traceable
    batches: Callable[[int, int], Iterator[np.ndarray]]  # (first step, last step + 1)
    all: Callable[[], Iterator[Any]]  # the inputs of every training image once, some at a time


def training_inputs(
    detector: Detector,
    config: RunConfig,
    frozen: nnx.Module | None,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
) -> TrainingInputs:
    """Reads (and encodes) the training images as far as they may stay in memory."""
    paths, count = [sample.path for sample in samples], len(samples)
    seed, batch = config.seed, config.batch_size

    def by_position(start: int, stop: int) -> Iterator[np.ndarray]:
        return resident_batches(count, seed, start=start, stop=stop, batch=batch)

    def by_file(start: int, stop: int) -> Iterator[np.ndarray]:
        return streamed_batches(paths, preprocessing, seed, start=start, stop=stop, batch=batch)

    def encoded(images: Any, module: Any) -> Any:
        return images if detector.frozen is None else detector.frozen.encode(module, images, config)

    def slices_of_files() -> Iterator[Any]:
        encode = _compiled(detector, config)
        for start in range(0, count, ENCODED_AT_ONCE):
            yield encode(frozen, load_images(paths[start : start + ENCODED_AT_ONCE], preprocessing))

    if not fits(count, preprocessing, config.resident_limit_mb):
        return TrainingInputs(frozen, encoded, by_file, slices_of_files)
    with Work("reading images", count) as work:
        images = load_images(paths, preprocessing, work.done)
    if detector.frozen is None:
        return TrainingInputs(jnp.asarray(images), by_index, by_position, lambda: iter([images]))
    if _bytes_per_image(detector, config, frozen) * count > config.resident_limit_mb * MEGABYTE:

        def by_image(index: Array, resident: Any) -> Any:
            return encoded(resident[0][index], resident[1])

        return TrainingInputs((jnp.asarray(images), frozen), by_image, by_position, slices_of_files)
    inputs = encode_all(detector, config, frozen, images)

    def slices() -> Iterator[Any]:
        for start in range(0, count, ENCODED_AT_ONCE):
            yield jax.tree.map(lambda x, start=start: x[start : start + ENCODED_AT_ONCE], inputs)

    return TrainingInputs(jax.tree.map(jnp.asarray, inputs), by_index, by_position, slices)


def encode_all(
    detector: Detector, config: RunConfig, frozen: nnx.Module | None, images: UInt8[np.ndarray, "n h w 3"]
) -> Any:
    """Inputs of all images, on the host; the images themselves where nothing is frozen."""
    if detector.frozen is None:
        return images
    encode, parts = _compiled(detector, config), []
    with Work(f"running the {detector.frozen.name}", len(images)) as work:
        for start in range(0, len(images), ENCODED_AT_ONCE):
            some = images[start : start + ENCODED_AT_ONCE]
            missing = ENCODED_AT_ONCE - len(some)  # filled up, so that one program serves all
            filled = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            parts.append(jax.tree.map(lambda x, n=len(some): np.asarray(x)[:n], encode(frozen, filled)))
            work.done(len(some))
    return jax.tree.map(lambda *some: np.concatenate(some), *parts)


def _compiled(detector: Detector, config: RunConfig) -> Callable[[Any, Any], Any]:
    if detector.frozen is None:
        return lambda _, images: images
    encode = detector.frozen.encode
    return jax.jit(partial(_encode, encode, config))


def _encode(encode: Any, config: RunConfig, module: Any, images: Array) -> Any:
    return encode(module, images, config)


def _bytes_per_image(detector: Detector, config: RunConfig, frozen: nnx.Module | None) -> int:
    assert detector.frozen is not None
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.uint8)  # type: ignore[no-untyped-call]
    shapes = jax.eval_shape(partial(_encode, detector.frozen.encode, config), frozen, image)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
