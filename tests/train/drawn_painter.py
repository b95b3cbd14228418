"""A generator that draws by plain NumPy, and a process that runs a job with it until it is killed."""

import sys
import time
from pathlib import Path

import numpy as np

from edge_agent.preprocess import Preprocessing
from train.data.samples import file_digest
from train.synthesis.foreground import find_foreground
from train.synthesis.job import Request, synthesize
from train.synthesis.regions import parse_region
from train.synthesis.sources import find_sources
from train.synthesis.task import Painting

SIZE = 16
COLOURS = {"burr": (250, 10, 10), "pore": (10, 10, 250)}


class DrawnPainter:
    """A square of the category's colour in the region's first corner, its shade drawn by seed and index."""

    categories = tuple(COLOURS)
    exclusive = True
    restores = True
    preprocessing = Preprocessing(width=SIZE, height=SIZE)

    def __init__(self, *, batch=4, empty=(), pause_s=0.0, factor=1.0):
        self.batch = batch
        self.empty = empty  # indices whose mask stays below any threshold
        self.pause_s = pause_s
        self.factor = factor
        self.identity = {"system": "drawn", "product": "washer", "engine": "numpy", "weights_digest": "0"}

    find_part = staticmethod(find_foreground)

    def check(self, tasks, region):
        assert len(set(tasks)) == len(tasks)

    def paint(self, images, regions, tasks):
        assert len(images) == len(regions) == len(tasks) == self.batch
        places = [task.index % self.batch for task in tasks]  # rounding may differ by place, so an image has one
        assert places == [*range(len(set(tasks))), *[0] * (self.batch - len(set(tasks)))]
        time.sleep(self.pause_s)
        drawn, masks = images.copy(), np.zeros(regions.shape, np.float32)
        for n, task in enumerate(tasks):
            rows, columns = np.nonzero(regions[n])
            y, x = rows[0], columns[0]
            random = np.random.default_rng([task.seed, task.index])
            value = 0.01 if task.index in self.empty else task.strength
            masks[n, y : y + 4, x : x + 6] = value * self.factor
            shade = random.integers(0, 6, 3)
            colour = np.array(COLOURS[task.categories[0]] if task.categories else (0, 255, 0)) - shade
            patch = drawn[n, y : y + 4, x : x + 6]
            patch[:] = patch * (1 - value) + np.clip(colour, 0, 255) * value
        return Painting(drawn, masks)


def tree(root, *, without=()):
    """Every file's digest by its place."""
    return {
        path.relative_to(root).as_posix(): file_digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in without
    }


def work(data, out, count, **request):
    """A job of burrs and pores in a box; `painter` and the request's fields may be given."""
    painter = request.pop("painter", None) or DrawnPainter()
    given = {"categories": (("burr",), ("pore",)), "region": parse_region("box:2,2,12,12")} | request
    sources = find_sources(data, side="train", seed=given.get("seed", 0), restore=given["categories"] == ((),))
    return synthesize(painter, sources, Request(count=count, **given), out)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), painter=DrawnPainter(empty=(5, 30), pause_s=0.02))
