"""Images and labels for the classifier: real ones to train on, to choose by and to test on, and synthetic ones.

Only real images are held out: a fifth of the training images of each kind picks the checkpoint, and the test images of
the set are seen once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from train.classifier.config import ClassifierConfig
from train.data.batches import load_images
from train.data.defect_set import DefectSample, DefectSet
from train.data.samples import DataError, shown
from train.progress import Work
from train.quality.image_sets import open_image_set
from train.run import preprocessing_of

SPLIT_STREAM = 2  # folded into the run's seed
NORMAL = ("good", "normal", "ok")  # what a folder of normal images may be called


@dataclass(frozen=True)
class Labelled:
    """Images with their labels, at model size."""

    image: UInt8[np.ndarray, "n s s 3"]
    labels: Float[np.ndarray, "n k"]


@dataclass(frozen=True)
class ClassifierData:
    train: Labelled
    validation: Labelled
    test: Labelled
    synthetic: Labelled | None


def resolved(config: ClassifierConfig, defects: DefectSet) -> ClassifierConfig:
    """With the categories of the data."""
    return config.model_copy(update={"categories": defects.categories, "exclusive": defects.exclusive})


def labels_of(categories: Sequence[str], config: ClassifierConfig) -> Float[np.ndarray, " k"]:
    row = np.zeros(config.outputs, np.float32)
    row[[config.categories.index(category) for category in categories]] = 1
    if config.exclusive and not categories:
        row[-1] = 1
    return row


def load_data(config: ClassifierConfig, defects: DefectSet, synthetic: Sequence[Path]) -> ClassifierData:
    """DataError where there is nothing to test on, or a synthetic class that the real images lack."""
    if not defects.held_out:
        raise DataError(f"{shown(defects.root)} has no test images, so nothing could be said of a classifier.")
    train, validation = split(defects, config)
    return ClassifierData(
        _load(train, config), _load(validation, config), _load(defects.held_out, config), _synthetic(config, synthetic)
    )


def split(defects: DefectSet, config: ClassifierConfig) -> tuple[tuple[DefectSample, ...], tuple[DefectSample, ...]]:
    """To train on, and to choose by: of each kind `validation_fraction`, at least one, drawn by the seed."""
    generator = np.random.default_rng([config.seed, SPLIT_STREAM])
    train: list[DefectSample] = []
    validation: list[DefectSample] = []
    samples = (*defects.normal, *defects.defective)
    for kind in sorted({sample.categories for sample in samples}):
        of_kind = [sample for sample in samples if sample.categories == kind]
        count = max(round(config.validation_fraction * len(of_kind)), 1) if len(of_kind) > 1 else 0
        order = generator.permutation(len(of_kind))
        validation += [of_kind[index] for index in order[:count]]
        train += [of_kind[index] for index in order[count:]]
    return tuple(train), tuple(validation)


def _load(samples: Sequence[DefectSample], config: ClassifierConfig) -> Labelled:
    with Work("reading images", len(samples)) as work:
        images = load_images([sample.path for sample in samples], preprocessing_of(config), work.done)
    return Labelled(images, np.stack([labels_of(sample.categories, config) for sample in samples]))


def _synthetic(config: ClassifierConfig, folders: Sequence[Path]) -> Labelled | None:
    if not folders:
        return None
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    found = [(folder, *of_class) for folder in folders for of_class in open_image_set(folder).by_class.items()]
    for folder, name, of_class in found:
        if name not in (*config.categories, *NORMAL):
            raise DataError(
                f"{shown(folder / name)} is of no class that the real images have: {', '.join(config.categories)}. "
                "Name the folders of synthetic images like those of the real ones."
            )
        rows += [labels_of(() if name in NORMAL else (name,), config)] * len(of_class)
        paths += of_class
    with Work("reading synthetic images", len(paths)) as work:
        return Labelled(load_images(paths, preprocessing_of(config), work.done), np.stack(rows))
