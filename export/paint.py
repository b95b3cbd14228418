"""A trained generator on an engine, as a synthesis job sees it: the noise is drawn by JAX, the rest is the engine's."""

from collections.abc import Sequence

import jax
import numpy as np

from export.errors import InputError
from export.graph_engines import GraphEngine, open_graph
from export.graphs import held, lower_network
from train.generators.run import TrainedGenerator
from train.networks import Network
from train.synthesis.control_map import control_maps
from train.synthesis.run_painter import BATCH, RunPainter, keys_of
from train.synthesis.task import Images, Painting, Regions, Task

KNOWN = {"image", "control", "noise", "strength"}


class EnginePainter(RunPainter):
    """Implements `train.synthesis.task.Painter`. The graph is lowered, held to JAX and compiled when it is made.

    Raises InputError for a generator that is no single graph, ExportError and EngineError where it can't be used.
    """

    def __init__(self, run: TrainedGenerator, kind: str, *, batch: int = BATCH):
        network = _single(run)
        model = lower_network(network)
        held(network, model)
        self.engine: GraphEngine = open_graph(model, kind, batch)
        super().__init__(run, self.engine.name, batch)
        self._inputs = tuple(network.inputs)
        self._noise = jax.jit(run.noise)

    def paint(self, images: Images, regions: Regions, tasks: Sequence[Task]) -> Painting:
        given = {
            "image": images,
            "control": control_maps(regions, tasks, self.categories),
            "strength": np.array([task.strength for task in tasks], np.float32),
        }
        if "noise" in self._inputs:
            given["noise"] = np.asarray(self._noise(keys_of(tasks)))
        levels, mask = self.engine.run({name: given[name] for name in self._inputs})
        return Painting(np.rint(levels).astype(np.uint8), mask)

    def close(self) -> None:
        self.engine.close()


def _single(run: TrainedGenerator) -> Network:
    networks = run.generator.networks(run)
    if len(networks) != 1 or not set(networks[0].inputs) <= KNOWN:
        raise InputError(f"{run.system} is no single graph, so engines can't draw with it. Leave --engine out.")
    return networks[0]
