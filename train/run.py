"""A run folder: what `fit` leaves behind and `evaluate` and `export` read.

config.yaml      every setting, as resolved; a --config file itself
provenance.json  versions, commit, command, data digest
split.json       which good images were trained on and which were held out
held_out.npz     the held-out images at model size: for thresholds, the golden set and the report
backbone.safetensors   the frozen network of a detector that has one, so that the user's file is not needed again
mask.png         what is judged, white, at model size; only where the run has a mask
checkpoints/     Orbax: the newest two and the best
thresholds.json  fitted on the held-out images when training has ended
events/          TensorBoard
pictures/        what a generator drew after each epoch; only of detectors that have one
metrics.json, report.html   written by `evaluate`
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from pydantic import ValidationError

from edge_agent.preprocess import Preprocessing, read_mask
from train.config import RunConfig, TrainingConfig, config_digest
from train.data.noise import corrupt
from train.data.samples import file_digest
from train.detectors import Detector, RawScores, find_detector
from train.detectors.detector import FrozenPart
from train.durable import write_file
from train.evaluate import About, HeldOut
from train.fit_threshold import Thresholds, fit_thresholds
from train.mask import MASK_FILE, Mask
from train.provenance import Value, versions
from train.restore import FolderKind, RunError, read_training, restore

MASK_DIGEST = "mask_sha256"  # in provenance.json
STAIN_STREAM = 4  # folded into the run's seed

RUN_FOLDER = FolderKind(
    called="the run folder of a detector",
    verb="fit",
    files=("config.yaml", "provenance.json", "held_out.npz", "checkpoints"),
    system_of=lambda provenance: find_detector(str(provenance["system"])),
)


@dataclass(frozen=True)
class TrainedRun:
    """A finished training, the checkpoint that its recipe picks loaded."""

    folder: Path
    detector: Detector
    config: RunConfig
    step: int  # of the checkpoint
    weights: Any  # of the scoring network
    thresholds: Thresholds | None  # None until training has ended
    provenance: dict[str, Value]
    mask: Mask | None = None  # of judged pixels, at model size
    figures: tuple[dict[str, float], ...] = ()  # of every epoch up to the checkpoint

    @property
    def system(self) -> str:
        return self.detector.name

    @property
    def product(self) -> str:
        return str(self.provenance.get("product") or self.folder.name)

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.config)

    @property
    def score_definition(self) -> str:
        definition = self.detector.score_definition(self.config)
        if self.mask is None:
            return definition
        return f"{definition} {self.mask.mean():.1%} of the image is judged; the rest scores 0 and counts nowhere."

    @property
    def scoring_mode(self) -> str:
        return self.detector.scoring_mode(self.config)

    def score(self, images: UInt8[Array, "n h w 3"]) -> RawScores:
        """Pure and traceable, the weights as constants: what `export` lowers."""
        return _score(self.detector, self.config, self.mask, self.weights, images)

    @cached_property
    def _compiled(self) -> Callable[[Any, Array], RawScores]:
        return jax.jit(partial(_score, self.detector, self.config, self.mask))

    @property
    def images_at_once(self) -> int:
        """That a program scores; fewer where each is cut into tiles, so that memory doesn't grow with them."""
        return max(self.detector.inputs_at_once(self.config) // len(self.detector.tiling(self.config)), 1)

    def score_batch(
        self, images: UInt8[np.ndarray, "n h w 3"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n h w"]]:
        """Raw image scores and maps of any number of images; one compiled program per batch size."""
        at_once = self.images_at_once
        raw = [
            self._compiled(self.weights, jax.numpy.asarray(images[start : start + at_once]))
            for start in range(0, len(images), at_once)
        ]
        scores, maps = zip(*raw, strict=True)
        return np.concatenate(scores), np.concatenate(maps)

    def fit_thresholds(self) -> Thresholds:
        """On the run's held-out images."""
        images, _ = read_held_out(self)
        scores, maps = score_all(self, images)
        thresholds = fit_thresholds(
            scores,
            maps if self.mask is None else maps[:, None, self.mask],
            target_false_reject_rate=self.config.target_false_reject_rate,
            pixel_quantile=self.config.pixel_quantile,
        )
        if self.mask is None:
            return thresholds
        return thresholds.model_copy(update={"rule": f"{thresholds.rule} Pixels that the mask excludes don't count."})


def _score(detector: Detector, config: RunConfig, mask: Mask | None, weights: Any, images: Array) -> RawScores:
    if mask is None:
        return detector.score(weights, images, config)
    assert detector.masking is not None
    return detector.masking.score(weights, images, config, mask)


def score_all(
    run: TrainedRun, images: UInt8[np.ndarray, "n h w 3"], on_progress: Callable[[int], None] = lambda count: None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n h w"]]:
    """Scores in batches of one size and a last one."""
    scores, maps = [], []
    for start in range(0, len(images), run.images_at_once):
        score, anomaly_map = run.score_batch(images[start : start + run.images_at_once])
        scores.append(score)
        maps.append(anomaly_map)
        on_progress(len(score))
    return np.concatenate(scores), np.concatenate(maps)


def preprocessing_of(config: TrainingConfig) -> Preprocessing:
    return Preprocessing(width=config.image_size, height=config.image_size, crop=config.crop)


def frozen_file(folder: Path, frozen: FrozenPart) -> Path:
    return folder / f"{frozen.name}.safetensors"


def open_run(folder: Path, overrides: Sequence[str] = (), *, step: int | None = None) -> TrainedRun:
    """The checkpoint that the run's recipe picks, ready to score; or that of a step, for studies (0: untrained).

    `overrides` are key=value settings that do not change training, such as scoring=uncertainty; the thresholds are then
    fitted anew on the held-out images. RunError says what is missing.
    """
    training = read_training(folder, RUN_FOLDER, overrides)
    detector, config, trained = training.system, training.config, training.trained
    changed = {name for name in detector.schema.model_fields if getattr(config, name) != getattr(trained, name)}
    if wrong := sorted(changed - detector.scoring_settings):
        raise RunError(
            f"--set {wrong[0]}: that was fixed when {folder} was trained. Of a trained run only "
            f"{', '.join(sorted(detector.scoring_settings))} can be set; for the rest, `train fit` a new run."
        )
    restored = restore(training, step)
    frozen = _restore_frozen(folder, detector, config)
    weights = jax.tree.map(jax.numpy.asarray, detector.fold(restored.model, frozen, config))
    provenance, mask = training.provenance, restore_mask(folder, training.provenance)
    thresholds = _read_thresholds(folder)
    run = TrainedRun(folder, detector, config, restored.step, weights, thresholds, provenance, mask, restored.figures)
    if changed and run.thresholds is not None:
        return replace(run, thresholds=run.fit_thresholds())
    return run


def _restore_frozen(folder: Path, detector: Detector, config: RunConfig) -> nnx.Module | None:
    if detector.frozen is None:
        return None
    try:
        return detector.frozen.restore(frozen_file(folder, detector.frozen), config)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} can't be used: {error}") from None


def restore_mask(folder: Path, provenance: Mapping[str, Value]) -> Mask | None:
    """The mask that the run was started with, if any. RunError where its file is missing or changed."""
    if MASK_DIGEST not in provenance:
        return None
    path = folder / MASK_FILE
    try:
        unchanged = file_digest(path) == provenance[MASK_DIGEST]
    except OSError:
        unchanged = False
    if not unchanged:
        raise RunError(f"{path} is missing or was changed after the run was started. Copy the whole folder again.")
    return read_mask(path)


def _read_thresholds(folder: Path) -> Thresholds | None:
    path = folder / "thresholds.json"
    if not path.exists():
        return None
    try:
        return Thresholds.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"{path} is damaged ({error.error_count()} problems). Delete it and run `train fit --resume`."
        ) from None


def write_held_out(folder: Path, images: UInt8[np.ndarray, "n h w 3"], names: Sequence[str]) -> None:
    write_file(folder / "held_out.npz", lambda file: np.savez(file, images=images, names=np.array(names, np.str_)))


def read_held_out(run: TrainedRun) -> tuple[UInt8[np.ndarray, "n h w 3"], tuple[str, ...]]:
    """Held-out good training images at model size, and their names below the data folder."""
    path = run.folder / "held_out.npz"
    try:
        with np.load(path, allow_pickle=False) as held_out:
            return held_out["images"], tuple(map(str, held_out["names"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}). Train the run again.") from None


def held_out_with_stains(run: TrainedRun) -> HeldOut:
    """The held-out images, and each again with a stain drawn on it: what a set without defects is judged by."""
    images, names = read_held_out(run)
    key = jax.random.fold_in(jax.random.key(run.config.seed), STAIN_STREAM)
    stained = corrupt(key, jax.numpy.asarray(images, jax.numpy.float32) / 255, "stain")
    return HeldOut(images, names, np.asarray(jax.numpy.round(stained * 255), np.uint8))


def thresholds_of(run: TrainedRun) -> Thresholds:
    """The fitted thresholds, or a RunError where training has not ended."""
    if run.thresholds is None:
        raise RunError(
            f"{run.folder} has no thresholds yet: its training has not ended. Go on with `train fit --resume`."
        )
    return run.thresholds


def about(run: TrainedRun) -> About:
    """What metrics.json says of the run."""
    digest = config_digest(run.config)
    return About(run.product, run.system, run.scoring_mode, run.config.seed, digest, versions(), run.mask)
