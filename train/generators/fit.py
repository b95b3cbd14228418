"""Training a generator: normal and defective images -> loop -> checkpoints. Reading `fit_generator` shows all of it."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.config import ConfigError
from train.data.defects import DefectSample, DefectSet, digest, split_json
from train.data.samples import DataError, shown
from train.durable import write_text
from train.epochs import Material, train_epochs
from train.generators.config import GeneratorConfig
from train.generators.generator import Generator
from train.generators.run import TrainedGenerator, open_generator
from train.memory import device_memory, must_suffice
from train.players import batches_per_step
from train.progress import Work
from train.report.generator_page import write_generator_report
from train.section import Section
from train.start import open_folder, read_provenance

MIN_NORMAL = 2
SPLIT_STREAM = 2  # folded into the run's seed
MEGABYTE = 1024 * 1024


def fit_generator(
    generator: Generator,
    config: GeneratorConfig,
    defects: DefectSet,
    out: Path,
    *,
    product: str,
    resume: bool = False,
    keep_all: bool = False,
) -> None:
    """Trains into the run folder `out`.

    With `resume` a killed run goes on from its newest checkpoint and ends with the numbers of one never killed.
    `keep_all` keeps the checkpoint of every epoch, for studies of how a run went.
    Raises RunError, ConfigError, DataError, TrainingDiverged, OutOfMemory.
    """
    config = settled(generator, config, defects, product)
    defective = _of_categories(config, defects)
    normal, held_out = split_normal(defects, config)
    _must_fit(config, len(normal) + len(held_out) + len(defective))
    _say_memory(generator, config)
    keeps, kept = generator.kept, None
    if keeps is not None and not (out / "config.yaml").exists():
        kept = keeps.make(config, [*normal, *held_out], defective)  # before anything is written
    started = open_folder(
        generator,
        config,
        out,
        data=defects.root,
        data_digest=digest(defects),
        product=product,
        resume=resume,
        files=() if keeps is None or kept is None else tuple(keeps.files(kept, config)),
        write_files=lambda out: {} if keeps is None else keeps.write(kept, config, out),
    )
    if keeps is not None and not started:
        kept = keeps.restore(out, config, read_provenance(out))
    if not (out / "split.json").exists():
        write_text(out / "split.json", json.dumps(split_json(defects), indent=2))

    def prepare() -> Material:
        return generator.prepare(config, normal, defective, held_out, kept)

    train_epochs(generator, config, prepare, out, keep_all=keep_all)
    write_report(open_generator(out))


def _say_memory(generator: Generator, config: GeneratorConfig) -> None:
    """What the training will take, where that is known; OutOfMemory where the device is known to have less."""
    if generator.memory is None:
        return
    estimate = generator.memory(config)
    must_suffice(estimate, device_memory(), generator.lowers_memory)
    with Work("", 0) as work:
        work.say(estimate.sentence())


def write_report(run: TrainedGenerator, found_later: Sequence[Section] = ()) -> None:
    """RUN/report.html, of the checkpoint that paints, and with what was found out about what it painted."""
    write_generator_report(
        run.folder / "report.html",
        system=run.system,
        product=run.product,
        step=run.step,
        headline=f"Draws {len(run.categories)} kinds of defect on {run.product}: {', '.join(run.categories)}",
        config=run.config.model_dump(mode="json"),
        provenance=run.provenance,
        sections=(*run.generator.sections(run), *found_later),
    )


def settled(generator: Generator, config: GeneratorConfig, defects: DefectSet, product: str) -> Any:
    """The config as the run folder keeps it, with all that the data decides. ConfigError, DataError."""
    config = generator.settled(with_categories(config, defects), product)
    return _with_steps(generator, config, len(_of_categories(config, defects)))


def _of_categories(config: GeneratorConfig, defects: DefectSet) -> list[DefectSample]:
    return [sample for sample in defects.defective if set(sample.categories) & set(config.categories)]


def with_categories(config: GeneratorConfig, defects: DefectSet) -> Any:
    """The config with what the data decides: its categories, and whether they exclude each other."""
    shown_by = {name: sum(name in sample.categories for sample in defects.defective) for name in defects.categories}
    categories = config.categories or defects.categories
    for name in categories:
        if name not in shown_by:
            near = difflib.get_close_matches(name, shown_by, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(shown_by)}."
            raise ConfigError(f"categories: {shown(defects.root)} has no defects called {name}. {advice}")
        if not shown_by[name]:
            raise DataError(
                f"{shown(defects.root)} has no training image of {name}: nothing can be learned of it. Add some, or "
                "name the categories to learn with --set categories=[...]."
            )
    if not categories:
        raise DataError(f"{shown(defects.root)} holds no defective images to train on.")
    exclusive = defects.exclusive if config.exclusive is None else config.exclusive
    if exclusive and not defects.exclusive:
        raise ConfigError(
            f"exclusive is set, but images in {shown(defects.root)} show several categories at once. Leave it out."
        )
    return config.model_copy(update={"categories": tuple(categories), "exclusive": exclusive})


def split_normal(defects: DefectSet, config: GeneratorConfig) -> tuple[Sequence[DefectSample], Sequence[DefectSample]]:
    """Normal training images to train on, and those that validation and pictures use."""
    normal = defects.normal
    if len(normal) < MIN_NORMAL:
        raise DataError(
            f"{shown(defects.root)} has {len(normal)} normal image{'s' * (len(normal) != 1)} to train on; a generator "
            f"needs at least {MIN_NORMAL}, some 200 are good. Put images without a defect in its normal class."
        )
    count = min(max(round(config.validation_fraction * len(normal)), 1), len(normal) // 2)
    order = np.random.default_rng([config.seed, SPLIT_STREAM]).permutation(len(normal))
    kept_back = set(order[:count].tolist())
    return (
        [sample for i, sample in enumerate(normal) if i not in kept_back],
        [sample for i, sample in enumerate(normal) if i in kept_back],
    )


def _with_steps(generator: Generator, config: GeneratorConfig, n_defective: int) -> Any:
    """The config with an epoch's steps as a number; 0 stands for one pass over the defective images."""
    if config.steps_per_epoch:
        return config
    per_step = config.batch_size * batches_per_step(generator.phases(config))
    return config.model_copy(update={"steps_per_epoch": max(n_defective // per_step, 1)})


def _must_fit(config: GeneratorConfig, n_images: int) -> None:
    size = n_images * config.image_size**2 * 4  # three colours and a mask
    if size > config.resident_limit_mb * MEGABYTE:
        raise ConfigError(
            f"{n_images} images of {config.image_size} px take {size // MEGABYTE} MB, more than resident_limit_mb: "
            f"{config.resident_limit_mb}. They are kept in memory while a generator trains: set a larger "
            "resident_limit_mb, a smaller image_size, or take fewer normal images."
        )
