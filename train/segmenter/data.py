"""Images and masks for the segmenter: normal and defective ones to train on, synthetic ones, and those to test on.

Only real images are tested on, once, at the end. Defects to train on are too few for some to be held back: what is
watched while training are normal images alone, and nothing is chosen by it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from edge_agent.preprocess import ImageError
from train.data.batches import load_images
from train.data.defect_mask import load_defect_mask
from train.data.defect_set import DefectSample, DefectSet, digest
from train.data.defect_split import SPLIT_FILE, read_split
from train.data.folder import open_dataset
from train.data.samples import DataError, Sample, file_digest, shown
from train.progress import Work
from train.run import preprocessing_of
from train.segmenter.config import SegmenterConfig

SPLIT_STREAM = 2  # folded into the run's seed


@dataclass(frozen=True, eq=False)
class Marked:
    """Images with their masks, at model size."""

    image: UInt8[np.ndarray, "n s s 3"]
    mask: UInt8[np.ndarray, "n s s"]  # 1 where defective

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class SegmenterData:
    normal: Marked
    validation: Marked  # normal too
    defective: Marked
    synthetic: Marked | None
    test: Marked
    test_categories: tuple[tuple[str, ...], ...]  # of each test image; (): it is normal


def load_data(config: SegmenterConfig, defects: DefectSet, synthetic: Sequence[Path]) -> SegmenterData:
    """`synthetic` are folders of images with masks, as `synthesize` writes them.

    Raises:
        DataError: there is nothing to train or to test on, a defective image has no mask, or images to be tested on are
            known to the generator of a synthetic folder.
    """
    tested, trained = defects.held_out, defects.defective
    if len(defects.normal) < 2 or not trained or not any(not sample.is_normal for sample in tested):
        raise DataError(
            f"{shown(defects.root)} has {len(defects.normal)} normal and {len(trained)} defective images to train on, "
            f"and {sum(not sample.is_normal for sample in tested)} defective ones to test on. A segmenter needs at "
            "least 2, 1 and 1."
        )
    for folder in synthetic:
        check_leak(folder, tested)
    normal, validation = split_normal(defects, config)
    drawn = [sample for folder in synthetic for sample in synthetic_samples(folder)]
    with Work("reading images", len(defects.samples) + len(drawn)) as work:

        def load(samples: Sequence[DefectSample | Sample]) -> Marked:
            preprocessing = preprocessing_of(config)
            images = load_images([sample.path for sample in samples], preprocessing, work.done)
            return Marked(images, np.stack([_mask(sample, config) for sample in samples]))

        return SegmenterData(
            load(normal),
            load(validation),
            load(trained),
            load(drawn) if drawn else None,
            load(tested),
            tuple(sample.categories for sample in tested),
        )


def split_normal(defects: DefectSet, config: SegmenterConfig) -> tuple[list[DefectSample], list[DefectSample]]:
    """To train on, and to watch."""
    normal = defects.normal
    order = np.random.default_rng([config.seed, SPLIT_STREAM]).permutation(len(normal))
    count = min(max(round(config.validation_fraction * len(normal)), 1), len(normal) - 1)
    return [normal[i] for i in sorted(order[count:])], [normal[i] for i in sorted(order[:count])]


def synthetic_samples(folder: Path) -> list[Sample]:
    """The defective images of a folder, all of which have masks. DataError where there is none."""
    found = [sample for sample in open_dataset(folder).test if not sample.is_good]
    if not found:
        raise DataError(f"{shown(folder)} holds no image with a defect below test/.")
    return found


def check_leak(folder: Path, tested: Sequence[DefectSample]) -> None:
    """DataError where the generator that drew a folder was trained on images that are to be tested on."""
    if not (folder / SPLIT_FILE).exists():
        return
    known = read_split(folder)
    if leaked := [sample for sample in tested if known.knows(sample.path)]:
        raise DataError(
            f"{shown(folder)}: its generator was trained on {len(leaked)} of the images to be tested on, "
            f"{shown(leaked[0].path)} for one. Split the data as for the generator: the same defects_per_type and seed."
        )


def data_digest(defects: DefectSet, synthetic: Sequence[Path]) -> str:
    """SHA-256, in hex, of all that a training sees."""
    lines = [digest(defects)]
    for folder in synthetic:
        lines += [file_digest(path) for s in synthetic_samples(folder) for path in (s.path, s.mask) if path]
    return lines[0] if len(lines) == 1 else hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _mask(sample: DefectSample | Sample, config: SegmenterConfig) -> UInt8[np.ndarray, "s s"]:
    """What is thinner than a pixel at model size is as wide as one."""
    if sample.is_normal if isinstance(sample, DefectSample) else sample.is_good:
        return np.zeros((config.image_size, config.image_size), np.uint8)
    if sample.mask is None:
        raise DataError(
            f"{shown(sample.path)} has no mask, so it isn't known which of its pixels are defective. Draw one, or "
            "leave the image out."
        )
    try:
        return load_defect_mask(sample.mask, preprocessing_of(config)).astype(np.uint8)
    except ImageError as error:
        raise DataError(str(error)) from None
