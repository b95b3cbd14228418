"""What Defect-GAN's training is fed: pairs of a normal and a defective image, resident on the device."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from edge_agent.preprocess import Preprocessing
from train.data.batches import load_images, resident_batches
from train.data.defect_mask import load_defect_mask
from train.data.defects import DefectSample
from train.epochs import Material
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.model import DefectGAN
from train.generators.defect_gan.picture import sheet
from train.generators.defect_gan.players import Pairs
from train.inputs import TrainingInputs
from train.progress import Work
from train.run import preprocessing_of

ORDER_OF_DEFECTIVE = 7  # added to the run's seed, so that the two orders differ


def prepare(
    config: DefectGANConfig,
    normal: Sequence[DefectSample],
    defective: Sequence[DefectSample],
    held_out: Sequence[DefectSample],
    kept: None = None,
) -> Material:
    """Reads all images. `held_out` are normal ones that are never trained on; they are validated and drawn upon."""
    preprocessing = preprocessing_of(config)
    with Work("reading images", len(normal) + len(defective) + len(held_out)) as work:
        load = partial(load_images, preprocessing=preprocessing, on_image=work.done)
        backgrounds, defects, unseen = (
            load([sample.path for sample in samples]) for samples in (normal, defective, held_out)
        )
    labels, masks = labels_of(defective, config), masks_of(defective, preprocessing)
    number = np.arange(max(len(unseen), len(defects)))
    parts: list[Any] = [unseen, defects, labels, masks]
    unseen_pairs = Pairs(*(part[number % len(part)] for part in parts))
    resident = Pairs(*map(jnp.asarray, (backgrounds, defects, labels, masks)))
    batches = partial(pairs_of_indices, len(backgrounds), len(defects), config)

    def draw(model: DefectGAN) -> UInt8[np.ndarray, "h w 3"]:
        return sheet(model.generator, unseen, config).image

    return Material(TrainingInputs(resident, by_pair, batches, lambda: iter([resident])), unseen_pairs, draw)


def by_pair(index: Int[Array, "n 2"], resident: Any) -> Pairs:
    """Pairs of the normal image of the first number and the defective one of the second."""
    of_defect = index[:, 1]
    return Pairs(resident.normal[index[:, 0]], *(part[of_defect] for part in resident[1:]))


def pairs_of_indices(
    n_normal: int, n_defective: int, config: DefectGANConfig, start: int, stop: int
) -> Iterator[Int[np.ndarray, "n 2"]]:
    """Each side goes through its images in an order of its own, pass after pass."""
    batch = config.batch_size * config.critic_steps
    normal = resident_batches(n_normal, config.seed, start=start, stop=stop, batch=batch)
    seed = config.seed + ORDER_OF_DEFECTIVE
    defective = resident_batches(n_defective, seed, start=start, stop=stop, batch=batch)
    for one, other in zip(normal, defective, strict=True):
        yield np.stack([one, other], axis=1)


def labels_of(samples: Sequence[DefectSample], config: DefectGANConfig) -> UInt8[np.ndarray, "n k"]:
    """1 for each category that an image shows; the last channel, normal, is 0."""
    labels = np.zeros((len(samples), config.control_channels), np.uint8)
    for row, sample in zip(labels, samples, strict=True):
        for category in sample.categories:
            if category in config.categories:
                row[config.categories.index(category)] = 1
    return labels


def masks_of(samples: Sequence[DefectSample], preprocessing: Preprocessing) -> UInt8[np.ndarray, "n s s"]:
    """255 where the defect is; everywhere, where an image has no mask or an empty one."""
    masks = np.full((len(samples), preprocessing.height, preprocessing.width), 255, np.uint8)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask is not None:
            region = load_defect_mask(sample.mask, preprocessing)
            if region.any():
                mask[:] = np.where(region, 255, 0)
    return masks
