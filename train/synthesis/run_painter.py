"""What every painter says of the trained generator that it draws with, and the random keys of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, UInt8, UInt32

from edge_agent.preprocess import Preprocessing
from train.config import ConfigError, config_digest
from train.generators.run import TrainedGenerator
from train.provenance import versions
from train.synthesis.foreground import find_foreground
from train.synthesis.regions import Region
from train.synthesis.task import Task

Keys = Key[Array, " n"]

BATCH = 8


class RunPainter:
    """A `task.Painter` but for `paint`, whatever runs it."""

    def __init__(self, run: TrainedGenerator, engine: str, batch: int):
        if batch < 1:
            raise ConfigError(f"--batch is {batch}. Give 1 or more.")
        self.run = run
        self.batch = batch
        self.identity: Mapping[str, Any] = identity_of(run, engine)

    @property
    def categories(self) -> tuple[str, ...]:
        return self.run.categories

    @property
    def exclusive(self) -> bool:
        return bool(self.run.config.exclusive)

    @property
    def restores(self) -> bool:
        return True

    @property
    def preprocessing(self) -> Preprocessing:
        return self.run.preprocessing

    def find_part(self, frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """By its colour."""
        return find_foreground(frame)

    def check(self, tasks: Sequence[Task], region: Region) -> None:
        """Whatever can be asked for can be drawn."""


def identity_of(run: TrainedGenerator, engine: str) -> dict[str, Any]:
    """For provenance: which weights, under which settings, run by what."""
    used = ("python", "jax", "jaxlib", "numpy", "opencv-python-headless", "faultline")
    return {
        "system": run.system,
        "product": run.product,
        "step": run.step,
        "config_digest": config_digest(run.config),
        "weights_digest": run.weights_digest,
        "data_digest": run.provenance.get("data_digest"),
        "engine": engine,
        "versions": {name: version for name, version in versions().items() if name in used},
    }


def keys_of(tasks: Sequence[Task]) -> Keys:
    """One per image, of its seed and index alone."""
    keys: Keys = _keys(jnp.asarray(tasks[0].seed, jnp.uint32), jnp.asarray([task.index for task in tasks], jnp.uint32))
    return keys


@jax.jit
def _keys(seed: UInt32[Array, ""], indices: UInt32[Array, " n"]) -> Keys:
    keys: Keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(seed), index))(indices)
    return keys
