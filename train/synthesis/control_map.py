"""What is asked of a generator, pixel by pixel: the sheet's spatial and categorical control map A."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from train.synthesis.task import Regions, Task


def control_maps(regions: Regions, tasks: Sequence[Task], categories: Sequence[str]) -> Float[np.ndarray, "n s s k"]:
    """1 in the channels of a task's categories, inside its region; 0 elsewhere. The last channel asks for normal."""
    maps = np.zeros((*regions.shape, len(categories) + 1), np.float32)
    for one, region, task in zip(maps, regions, tasks, strict=True):
        for channel in [categories.index(name) for name in task.categories] or [len(categories)]:
            one[..., channel] = region
    return maps
