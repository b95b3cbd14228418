"""The networks of a run as ONNX graphs of their own, each held to JAX before it is written."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
from pydantic import BaseModel

from export.errors import ExportError, InputError
from export.lower import InputSpec, lower
from train.durable import write_file
from train.generators.registry import GENERATORS
from train.generators.run import TrainedGenerator, open_generator
from train.networks import Network
from train.run import TrainedRun, open_run

TRIED = (1, 3)  # batches
MOST_ERROR = 1e-3  # of the largest value of an output


class Written(BaseModel):
    """What was written, and how far ONNX Runtime is from JAX on it."""

    name: str
    file: str
    nodes: int
    error: float  # the largest difference, as a share of the output's largest value


def open_detector_or_generator(folder: Path) -> TrainedRun | TrainedGenerator:
    """What the folder's provenance.json says it is. RunError where it is neither, or not whole."""
    try:
        system = json.loads((folder / "provenance.json").read_text())["system"]
    except (OSError, ValueError, KeyError, TypeError):
        system = None
    return open_generator(folder) if system in GENERATORS else open_run(folder)


def write_graphs(run: TrainedRun | TrainedGenerator, out: Path) -> list[Written]:
    """One file per network.

    Raises:
        InputError: the run's system has no networks to be exported alone, or `out` is there already.
        ExportError: ONNX Runtime and JAX disagree; nothing was written.
    """
    networks = (run.detector if isinstance(run, TrainedRun) else run.generator).networks(run)
    if not networks:
        raise InputError(
            f"{run.system} is exported as a whole: python -m export bundle {run.folder} --out BUNDLE. Graphs of single "
            f"networks are written of anogan and of generators: {', '.join(GENERATORS)}."
        )
    if out.exists():
        raise InputError(f"--out {out} exists already. Name a new folder.")
    models = [(network, lower_network(network)) for network in networks]
    errors = [held(network, model) for network, model in models]
    out.mkdir(parents=True)
    written = []
    for (network, model), error in zip(models, errors, strict=True):
        path, data = out / f"{network.name}.onnx", model.SerializeToString()
        write_file(path, lambda file, data=data: file.write(data))  # type: ignore[misc]
        written.append(Written(name=network.name, file=path.name, nodes=len(model.graph.node), error=error))
    return written


def lower_network(network: Network) -> onnx.ModelProto:
    inputs = {name: InputSpec(array.shape, array.dtype) for name, array in network.inputs.items()}
    return lower(network.function, inputs, network.outputs, name=network.name)


def held(network: Network, model: onnx.ModelProto) -> float:
    """The error of random inputs; ExportError where it is too large."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    compiled, worst = jax.jit(network.function), 0.0
    for batch in TRIED:
        given = random_inputs(network, batch)
        found: Sequence[np.ndarray] = session.run(list(network.outputs), given)
        expected = jax.tree.leaves(compiled(*given.values()))
        for name, theirs, ours in zip(network.outputs, found, expected, strict=True):
            difference = np.abs(np.asarray(theirs, np.float64) - np.asarray(ours, np.float64))
            error = float(np.max(difference) / max(float(np.max(np.abs(ours))), 1e-6))
            if not error <= MOST_ERROR:
                raise ExportError(
                    f"{network.name}: ONNX Runtime and JAX disagree on {name} by {error:.3g} of its largest value; "
                    f"allowed is {MOST_ERROR:g}. Nothing was written. An operation is lowered wrongly."
                )
            worst = max(worst, error)
    return worst


def random_inputs(network: Network, batch: int) -> dict[str, np.ndarray]:
    """From 0 up to the limit of each input: 1 suits images, moments and counts alike."""
    generator = np.random.default_rng(batch)
    sizes = {
        name: tuple(batch if size == "batch" else int(size) for size in array.shape)
        for name, array in network.inputs.items()
    }
    return {
        name: np.asarray(generator.uniform(0, network.inputs[name].limit, size), network.inputs[name].dtype)
        for name, size in sizes.items()
    }
