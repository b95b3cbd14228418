"""A generator's run folder: what `fit-generator` leaves behind and `synthesize` and `export` read.

config.yaml      every setting, as resolved, with the categories; a --config file itself
provenance.json  versions, commit, command, data digest
split.json       which images were trained on, so that `evaluate` leaves them out
checkpoints/     Orbax: the newest two and the best
(more)           what a generator needs besides and training does not change, such as published weights (kept.py)
events/          TensorBoard
pictures/        what was drawn after each epoch
report.html      written when training has ended
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from edge_agent.preprocess import Preprocessing
from train.generators.config import GeneratorConfig
from train.generators.generator import Control, Generator, Images, Keys, Noise, Painted
from train.generators.registry import find_generator
from train.provenance import Value
from train.restore import FolderKind, RunError, read_training, restore
from train.run import preprocessing_of


@dataclass(frozen=True)
class TrainedGenerator:
    """A training's generator, the checkpoint that its recipe picks loaded."""

    folder: Path
    generator: Generator
    config: GeneratorConfig
    step: int  # of the checkpoint
    weights: Any  # of what paints
    provenance: dict[str, Value]
    figures: tuple[dict[str, float], ...] = ()  # of every epoch up to the checkpoint

    @property
    def system(self) -> str:
        return self.generator.name

    @property
    def product(self) -> str:
        return str(self.provenance.get("product") or self.folder.name)

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of the control channels."""
        return self.config.categories

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.config)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256, in hex, of the names, shapes and bytes of what paints."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.weights):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def noise(self, keys: Keys) -> Float[Array, "n z"]:
        """What an image's drawing is random by; a row depends on its own key only."""
        return one_pass_of(self.generator)[0](keys, self.config)

    def paint(
        self, images: Images, control: Control, keys: Keys, strength: float | Float[Array, " n"] = 1.0
    ) -> Painted:
        """Defects of the categories that `control` [n, s, s, k] asks for, where it asks for them.

        Pure and traceable, the weights as constants. `keys` holds one key per image, and an image does not depend on
        what else is in its batch. `strength` in (0, 1] scales the mask.
        """
        draw_noise, paint = one_pass_of(self.generator)
        return paint(self.weights, images, control, draw_noise(keys, self.config), jnp.asarray(strength), self.config)

    def restore(self, images: Images, keys: Keys) -> Painted:
        """The images without their defects; the mask is where something was taken away."""
        return self.paint(images, self.normal_control(len(images)), keys)

    def normal_control(self, n: int) -> Control:
        """The control map that asks for a normal part, everywhere."""
        size = self.config.image_size
        return jnp.zeros((n, size, size, self.config.control_channels)).at[..., -1].set(1)

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(partial(_paint, self.generator, self.config))

    def paint_batch(
        self, images: UInt8[np.ndarray, "n s s 3"], control: Any, keys: Keys, strength: Any = 1.0
    ) -> tuple[UInt8[np.ndarray, "n s s 3"], Float[np.ndarray, "n s s"]]:
        """As `paint`, by one compiled program per batch size; on the host."""
        per_image = jnp.broadcast_to(jnp.asarray(strength, jnp.float32), len(images))
        painted = self._compiled(self.weights, jnp.asarray(images), jnp.asarray(control), keys, per_image)
        return np.asarray(painted.images), np.asarray(painted.mask)


def _paint(
    generator: Generator, config: Any, weights: Any, images: Array, control: Array, keys: Array, strength: Array
) -> Painted:
    draw_noise, paint = one_pass_of(generator)
    return paint(weights, images, control, draw_noise(keys, config), strength, config)


def one_pass_of(generator: Generator) -> tuple[Callable[..., Noise], Callable[..., Painted]]:
    """Its `draw_noise` and `paint`. RunError where it draws in many steps, which is a job's work."""
    if generator.draw_noise is None or generator.paint is None:
        raise RunError(f"{generator.name} draws in many steps, not in one. Let `train synthesize` draw.")
    return generator.draw_noise, generator.paint


GENERATOR_FOLDER = FolderKind(
    called="the run folder of a generator",
    verb="fit-generator",
    files=("config.yaml", "provenance.json", "checkpoints"),
    system_of=lambda provenance: find_generator(str(provenance["system"])),
)


def open_generator(folder: Path, *, step: int | None = None) -> TrainedGenerator:
    """The checkpoint that the run's recipe picks, ready to paint; or that of a step, for studies (0: untrained).

    RunError says what is missing.
    """
    training = read_training(folder, GENERATOR_FOLDER)
    generator, config = training.system, training.config
    restored = restore(training, step)
    kept = generator.kept.restore(folder, config, training.provenance) if generator.kept else None
    weights = jax.tree.map(jnp.asarray, generator.fold(restored.model, kept, config))
    return TrainedGenerator(folder, generator, config, restored.step, weights, training.provenance, restored.figures)
