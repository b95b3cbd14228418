"""A segmenter trained on few real defects, with synthetic ones or without, and judged on real test images."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from train.backbones.errors import WeightsError
from train.backbones.pretrained import find_weights, load_pretrained, random_weights
from train.backbones.registry import find_backbone
from train.checkpoint import Checkpoints
from train.chunks import in_chunks
from train.config import ConfigError
from train.data.batches import sample_order
from train.data.defect_set import DefectSet
from train.durable import write_text
from train.epochs import Material, evaluated, initial_state, train_epochs
from train.inputs import TrainingInputs
from train.loop import by_index
from train.segmenter.config import SegmenterConfig
from train.segmenter.data import Marked, SegmenterData, data_digest, load_data
from train.segmenter.figures import Figures, figures_by_category, figures_of
from train.segmenter.model import TRAINED, Segmenter
from train.segmenter.system import SEGMENTER, logits
from train.start import open_folder

JUDGED_AT_ONCE = 16
DEFECTIVE_STREAM, SYNTHETIC_STREAM = 5, 7  # added to the run's seed: the orders of these images


@dataclass(frozen=True)
class Result:
    """On real test images, of the last checkpoint."""

    figures: Figures
    by_category: dict[str, Figures]  # each with all normal test images
    n_normal: int  # to train on
    n_defective: int
    n_synthetic: int
    n_test_good: int
    n_test_defective: int
    steps: int
    quiet: float  # share of held-out normal pixels below 0.5


def fit_segmenter(
    config: SegmenterConfig, defects: DefectSet, out: Path, *, synthetic: Sequence[Path] = (), resume: bool = False
) -> Result:
    """Trains into the folder `out`, writes out/result.json and returns it.

    `synthetic` are folders of images with masks, as `synthesize` writes them. With and without them a run takes the
    same number of steps and sees as many normal and as many defective images, so that neither is trained longer; of
    the defective ones `synthetic_share` are synthetic.
    Raises DataError, ConfigError, RunError, TrainingDiverged, OutOfMemory.
    """
    data = load_data(config, defects, synthetic)
    _check_batch(config, data)
    if not (out / "config.yaml").exists():
        encoder_of(config)  # refused before anything is written
    open_folder(
        SEGMENTER,
        config,
        out,
        data=defects.root,
        data_digest=data_digest(defects, synthetic),
        product=defects.root.name,
        resume=resume,
    )
    train_epochs(SEGMENTER, config, lambda: _material(config, data), out)
    result = _judged(config, data, out)
    write_text(out / "result.json", json.dumps(asdict(result), indent=2) + "\n")
    return result


def encoder_of(config: SegmenterConfig) -> nnx.Module | None:
    """The frozen backbone of a run that starts; None where all levels are trained. ConfigError where there is none."""
    if config.encoder == TRAINED:
        return None
    backbone = find_backbone(config.encoder)
    if not backbone.pretrained:
        return random_weights(backbone, config.image_size, config.seed)
    try:
        return load_pretrained(backbone, find_weights(backbone, config.backbone_weights), config.image_size)
    except WeightsError as error:
        raise ConfigError(f"{error} Or set encoder: {TRAINED}.") from error


def _check_batch(config: SegmenterConfig, data: SegmenterData) -> None:
    if data.synthetic is None:
        return
    drawn = config.synthetic_per_batch(len(data.synthetic))
    if not 0 < drawn < config.defective_per_batch:
        raise ConfigError(
            f"synthetic_share is {config.synthetic_share:g}, so that of a batch's {config.defective_per_batch} images "
            f"with a defect {drawn} are synthetic. It must hold real and synthetic ones: set a larger batch_size."
        )


def _material(config: SegmenterConfig, data: SegmenterData) -> Material:
    parts = [part for part in (data.normal, data.defective, data.synthetic) if part is not None]
    resident = {
        "image": jnp.asarray(np.concatenate([part.image for part in parts])),
        "mask": jnp.asarray(np.concatenate([part.mask for part in parts])),
    }
    counts = [len(data.normal), len(data.defective), 0 if data.synthetic is None else len(data.synthetic)]

    def batches(start: int, stop: int) -> Iterator[Int[np.ndarray, " n"]]:
        return mixed_batches(config, counts, start, stop)

    def take_encoder(model: Segmenter) -> None:
        model.frozen = encoder_of(config)

    inputs = TrainingInputs(resident, by_index, batches, lambda: iter([resident]))
    return Material(inputs, _as_inputs(data.validation), start=take_encoder)


def mixed_batches(
    config: SegmenterConfig, counts: Sequence[int], start: int, stop: int
) -> Iterator[Int[np.ndarray, " n"]]:
    """Indices of the batches of steps start to stop - 1. `counts` are of normal, defective and synthetic images.

    They lie one kind after the other. Every batch holds the same number of each; each kind is passed over and over,
    shuffled anew.
    """
    synthetic = config.synthetic_per_batch(counts[2])
    shares = (config.batch_size - config.defective_per_batch, config.defective_per_batch - synthetic, synthetic)
    seeds = (config.seed, config.seed + DEFECTIVE_STREAM, config.seed + SYNTHETIC_STREAM)
    orders = [sample_order(n, seed) if n else None for n, seed in zip(counts, seeds, strict=True)]
    firsts = np.cumsum([0, *counts[:2]])
    for step in range(start, stop):
        batch: list[int] = []
        for order, share, first in zip(orders, shares, firsts, strict=True):
            if order is not None:
                batch += [first + order[position] for position in range(step * share, (step + 1) * share)]
        yield np.array(batch, np.int32)


def _as_inputs(marked: Marked) -> dict[str, Any]:
    return {"image": marked.image, "mask": marked.mask}


def _judged(config: SegmenterConfig, data: SegmenterData, out: Path) -> Result:
    graph, state = initial_state(SEGMENTER, config)
    with Checkpoints(out / "checkpoints", SEGMENTER.monitor) as checkpoints:
        last = checkpoints.latest
        assert last is not None  # training has ended
        state, _ = checkpoints.restore(last, state)
        quiet = checkpoints.metrics(last)[SEGMENTER.monitor]
    maps, masks = all_logits(evaluated(graph, state), data.test.image), data.test.mask > 0
    return Result(
        figures=figures_of(maps, masks),
        by_category=figures_by_category(maps, masks, data.test_categories),
        n_normal=len(data.normal),
        n_defective=len(data.defective),
        n_synthetic=0 if data.synthetic is None else len(data.synthetic),
        n_test_good=sum(not shown for shown in data.test_categories),
        n_test_defective=sum(bool(shown) for shown in data.test_categories),
        steps=last,
        quiet=quiet,
    )


def all_logits(model: Segmenter, images: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, "n s s"]:
    """Of every pixel. They rank as scores do, and don't all become 1 where they are large."""
    maps: np.ndarray = in_chunks(partial(jax.jit(logits), model), images, JUDGED_AT_ONCE)
    return maps
