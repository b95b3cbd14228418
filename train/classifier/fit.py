"""A classifier trained on real images, with synthetic ones or without, and judged on real test images."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from train.checkpoint import Checkpoints
from train.chunks import in_chunks
from train.classifier.config import ClassifierConfig
from train.classifier.data import ClassifierData, Labelled, load_data, resolved
from train.classifier.system import CLASSIFIER, is_right, logits
from train.config import ConfigError
from train.data.batches import sample_order
from train.data.defect_set import DefectSet, digest
from train.durable import write_text
from train.epochs import Material, evaluated, initial_state, train_epochs
from train.inputs import TrainingInputs
from train.loop import by_index
from train.metrics.intervals import clopper_pearson
from train.start import open_folder

JUDGED_AT_ONCE = 32
SYNTHETIC_STREAM = 7  # added to the run's seed: the order of synthetic images


@dataclass(frozen=True)
class Result:
    """On real test images, of the checkpoint with the best accuracy on real validation images."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, over the draw of the test images
    mean_class_accuracy: float  # each kind of image counts the same
    class_accuracy: dict[str, float]
    n_test: int
    n_train: int
    n_synthetic: int
    steps: int
    best_step: int
    validation_accuracy: float


def fit_classifier(
    config: ClassifierConfig, defects: DefectSet, out: Path, *, synthetic: Sequence[Path] = (), resume: bool = False
) -> Result:
    """Trains into the folder `out`, writes out/result.json and returns it.

    `synthetic` are folders that `synthesize` wrote, of drawn defects and of restored images. With and without them a
    run takes the same number of steps, so that neither is trained longer.
    Raises DataError, ConfigError, RunError, TrainingDiverged.
    """
    if config.source_weight and not synthetic:
        raise ConfigError(
            f"source_weight is {config.source_weight:g}, but there are no synthetic images to tell from real ones. "
            "Give them, or leave source_weight 0."
        )
    config = resolved(config, defects)
    data = load_data(config, defects, synthetic)
    steps = config.steps_per_epoch or len(data.train.image) // config.batch_size
    if not steps:
        raise ConfigError(
            f"batch_size is {config.batch_size}, but there are {len(data.train.image)} images to train on. Set a "
            "smaller one, or steps_per_epoch."
        )
    update = {"steps_per_epoch": steps, "validation_samples": len(data.validation.image)}
    config = config.model_copy(update=update)
    open_folder(
        CLASSIFIER,
        config,
        out,
        data=defects.root,
        data_digest=digest(defects),
        product=defects.root.name,
        resume=resume,
    )
    train_epochs(CLASSIFIER, config, lambda: _material(config, data), out)
    result = _judged(config, data, out)
    write_text(out / "result.json", json.dumps(result.__dict__, indent=2) + "\n")
    return result


def _material(config: ClassifierConfig, data: ClassifierData) -> Material:
    real, synthetic = data.train, data.synthetic
    n_real, n_synthetic = len(real.image), 0 if synthetic is None else len(synthetic.image)
    both = [real] if synthetic is None else [real, synthetic]
    resident = {
        "image": jnp.asarray(np.concatenate([part.image for part in both])),
        "labels": jnp.asarray(np.concatenate([part.labels for part in both])),
        "synthetic": jnp.asarray(np.repeat([0.0, 1.0], [n_real, n_synthetic]), jnp.float32),
    }

    def batches(start: int, stop: int) -> Iterator[Int[np.ndarray, " n"]]:
        return mixed_batches(config, n_real, n_synthetic, start, stop)

    inputs = TrainingInputs(resident, by_index, batches, lambda: iter([resident]))
    return Material(inputs, _as_inputs(data.validation))


def mixed_batches(
    config: ClassifierConfig, n_real: int, n_synthetic: int, start: int, stop: int
) -> Iterator[Int[np.ndarray, " n"]]:
    """Indices of the batches of steps start to stop - 1; synthetic images follow the real ones.

    Every batch holds the same number of synthetic images, whatever their number; each source is passed over and over,
    shuffled anew.
    """
    of_synthetic = round(config.batch_size * config.synthetic_share) if n_synthetic else 0
    of_real = config.batch_size - of_synthetic
    real = sample_order(n_real, config.seed)
    synthetic = sample_order(n_synthetic, config.seed + SYNTHETIC_STREAM) if n_synthetic else None
    for step in range(start, stop):
        batch = [real[position] for position in range(step * of_real, (step + 1) * of_real)]
        if synthetic is not None:
            chosen = range(step * of_synthetic, (step + 1) * of_synthetic)
            batch += [n_real + synthetic[position] for position in chosen]
        yield np.array(batch, np.int32)


def _as_inputs(labelled: Labelled) -> dict[str, Any]:
    return {
        "image": labelled.image,
        "labels": labelled.labels,
        "synthetic": np.zeros(len(labelled.image), np.float32),
    }


def _judged(config: ClassifierConfig, data: ClassifierData, out: Path) -> Result:
    graph, state = initial_state(CLASSIFIER, config)
    with Checkpoints(out / "checkpoints", CLASSIFIER.monitor) as checkpoints:
        best = checkpoints.best
        assert best is not None  # training has ended
        state, _ = checkpoints.restore(best, state)
        validation = checkpoints.metrics(best)[CLASSIFIER.monitor]
    found = in_chunks(partial(jax.jit(logits), evaluated(graph, state)), data.test.image, JUDGED_AT_ONCE)
    right = np.asarray(is_right(jnp.asarray(found), jnp.asarray(data.test.labels), config)) > 0
    kinds = [_kind(row, config) for row in data.test.labels]
    by_kind = {kind: float(right[[k == kind for k in kinds]].mean()) for kind in sorted(set(kinds))}
    return Result(
        accuracy=float(right.mean()),
        interval=clopper_pearson(int(right.sum()), len(right)),
        mean_class_accuracy=float(np.mean(list(by_kind.values()))),
        class_accuracy=by_kind,
        n_test=len(right),
        n_train=len(data.train.image),
        n_synthetic=0 if data.synthetic is None else len(data.synthetic.image),
        steps=config.epochs * config.steps_per_epoch,
        best_step=best,
        validation_accuracy=validation,
    )


def _kind(labels: Float[np.ndarray, " k"], config: ClassifierConfig) -> str:
    shown = [category for category, label in zip(config.categories, labels, strict=False) if label > 0]
    return " + ".join(shown) or "normal"
