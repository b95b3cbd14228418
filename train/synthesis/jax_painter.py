"""A trained generator, run by JAX, as a job sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from train.generators.run import TrainedGenerator
from train.synthesis.control_map import control_maps
from train.synthesis.run_painter import BATCH, RunPainter, keys_of
from train.synthesis.task import Images, Painter, Painting, Regions, Task
from train.synthesis.wishes import Wishes, refuse_wishes


class JaxPainter(RunPainter):
    """Implements `task.Painter`."""

    def __init__(self, run: TrainedGenerator, *, batch: int = BATCH):
        super().__init__(run, f"jax on {jax.default_backend()}", batch)

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> Painting:
        control = control_maps(regions, tasks, self.categories)
        strength = np.array([task.strength for task in tasks], np.float32)
        return Painting(*self.run.paint_batch(images, control, keys_of(tasks), strength))


def painter_of(run: TrainedGenerator, wishes: Wishes) -> Painter:
    """What draws with a run. ConfigError for wishes that its generator can't fulfil."""
    if run.generator.painter is not None:
        painter: Painter = run.generator.painter(run, wishes)
        return painter
    refuse_wishes(replace(wishes, batch=None), run.system)
    return JaxPainter(run, batch=BATCH if wishes.batch is None else wishes.batch)
