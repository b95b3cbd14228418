"""Training a detector: images -> loop -> checkpoints -> thresholds. Reading `fit` alone shows all of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from train.config import RunConfig
from train.data.batches import load_images
from train.data.folder import Dataset, Sample, digest
from train.data.samples import file_digest
from train.detectors import Detector
from train.durable import write_text
from train.epochs import Material, train_epochs
from train.fit_threshold import Thresholds
from train.inputs import encode_all, parts_of, training_inputs
from train.mask import MASK_FILE, Mask, load_mask, write_mask
from train.players import batches_per_step
from train.progress import Work
from train.provenance import Value
from train.run import MASK_DIGEST, RunError, frozen_file, open_run, preprocessing_of, restore_mask, write_held_out
from train.start import open_folder, read_provenance

MIN_HELD_OUT = 4
SPLIT_STREAM = 2  # folded into the run's seed


@dataclass(frozen=True)
class Split:
    """Good training images: trained on, and held out."""

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]


def split_good(samples: Sequence[Sample], fraction: float, seed: int) -> Split:
    """Holds out a random `fraction`, at least four, never more than half."""
    count = min(max(round(fraction * len(samples)), MIN_HELD_OUT), len(samples) // 2)
    if count < MIN_HELD_OUT:
        raise RunError(
            f"{len(samples)} good images are too few to train on and to hold {MIN_HELD_OUT} out. "
            "Record more good parts."
        )
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(len(samples))
    held_out = set(order[:count].tolist())
    return Split(
        tuple(sample for i, sample in enumerate(samples) if i not in held_out),
        tuple(sample for i, sample in enumerate(samples) if i in held_out),
    )


def fit(
    detector: Detector,
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    product: str,
    resume: bool = False,
    keep_all: bool = False,
) -> Thresholds:
    """Trains into the run folder `out` and fits the thresholds.

    With `resume` a killed run goes on from its newest checkpoint and ends with the numbers of one never killed.
    `keep_all` keeps the checkpoint of every epoch, for studies of how a run went.
    Raises RunError, ConfigError, TrainingDiverged.
    """
    split = split_good(dataset.train, config.validation_fraction, config.seed)
    mask = _mask(detector, config, dataset, out)
    config = _with_steps(detector, config, len(split.train) * len(parts_of(detector, config, mask)))
    frozen = _frozen_part(detector, config, out)
    _open_folder(detector, config, dataset, out, frozen, mask, product=product, resume=resume)
    preprocessing = preprocessing_of(config)
    names = [sample.path.relative_to(dataset.root).as_posix() for sample in split.held_out]
    with Work("reading held-out images", len(split.held_out)) as work:
        held_out = load_images([sample.path for sample in split.held_out], preprocessing, work.done)
    if not (out / "split.json").exists():
        trained_on = [sample.path.relative_to(dataset.root).as_posix() for sample in split.train]
        write_text(out / "split.json", json.dumps({"train": trained_on, "held_out": names}, indent=1))
        write_held_out(out, held_out, names)

    picture = detector.picture

    def prepare() -> Material:
        return Material(
            training_inputs(detector, config, frozen, split.train, preprocessing, mask),
            encode_all(detector, config, frozen, held_out, mask),
            None if picture is None else lambda model: picture(model, config),
        )

    train_epochs(detector, config, prepare, out, keep_all=keep_all)
    thresholds = open_run(out).fit_thresholds()
    write_text(out / "thresholds.json", thresholds.model_dump_json(indent=2))
    return thresholds


def _with_steps(detector: Detector, config: Any, n_train: int) -> Any:
    """The config with an epoch's steps as a number; 0 stands for one pass over the training images, or their tiles."""
    if config.steps_per_epoch:
        return config
    batches = batches_per_step(detector.phases(config))
    if n_train < config.batch_size * batches:
        several = "a batch" if batches == 1 else f"{batches} batches"
        raise RunError(
            f"{n_train} training images don't fill {several} of {config.batch_size}, so an epoch of one pass has no "
            "step. Set a smaller batch_size, or steps_per_epoch."
        )
    return config.model_copy(update={"steps_per_epoch": n_train // (config.batch_size * batches)})


def _mask(detector: Detector, config: RunConfig, dataset: Dataset, out: Path) -> Mask | None:
    """The one that is set, else that of the run folder."""
    path = detector.masking.file(config) if detector.masking else None
    if detector.masking is None or path is None:
        return restore_mask(out, read_provenance(out)) if (out / "config.yaml").exists() else None
    return load_mask(path, preprocessing_of(config), dataset.train, cell=detector.masking.cell(config))


def _frozen_part(detector: Detector, config: RunConfig, out: Path) -> nnx.Module | None:
    """From the run folder where it is there already, else from where the config says."""
    if detector.frozen is None:
        return None
    path = frozen_file(out, detector.frozen)
    return detector.frozen.restore(path, config) if path.exists() else detector.frozen.load(config)


def _open_folder(
    detector: Detector,
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    frozen: nnx.Module | None,
    mask: Mask | None,
    *,
    product: str,
    resume: bool,
) -> None:
    """Starts a run folder, or checks that the one to resume is of the same settings, mask and data."""

    def write_files(out: Path) -> dict[str, Value]:
        said: dict[str, Value] = {}
        if detector.frozen is not None:
            path = frozen_file(out, detector.frozen)
            detector.frozen.save(path, frozen)
            said[f"{detector.frozen.name}_sha256"] = file_digest(path)
        if mask is not None:
            write_mask(out / MASK_FILE, mask)
            said[MASK_DIGEST] = file_digest(out / MASK_FILE)
        return said

    files = (MASK_FILE,) if detector.frozen is None else (MASK_FILE, frozen_file(out, detector.frozen).name)
    started = open_folder(
        detector,
        config,
        out,
        data=dataset.root,
        data_digest=digest(dataset),
        product=product,
        resume=resume,
        files=files,
        write_files=write_files,
    )
    if started:
        return
    started_with = restore_mask(out, read_provenance(out))
    if mask is not None and (started_with is None or not np.array_equal(started_with, mask)):
        what = "no mask" if started_with is None else "another mask"
        raise RunError(f"{out} was started with {what}. Resume without --set mask=..., or give --out a new folder.")
