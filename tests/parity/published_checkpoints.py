"""Checkpoints as Stable Diffusion's users have them, made of diffusers' models with random weights."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from train.backbones.layout import Shape
from train.backbones.matching import shapes_of
from train.generators.adabldm.published import Published

State = dict[str, np.ndarray]
CHEAP = {"xla_backend_optimization_level": 0}  # to compile what runs once


def state_of(model) -> State:
    return {key: value.detach().float().numpy().copy() for key, value in model.state_dict().items()}


def write(path: Path, state: State) -> Path:
    safetensors.numpy.save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, path)
    return path


def keys_of(name: str, network: nnx.Module, published: Published) -> dict[str, Shape]:
    """The keys and shapes that a layout of a network reads, its prefix in front."""
    leaves = shapes_of(network)
    layout = next(layout for layout in published.layouts(leaves) if layout.name == name)
    return {"".join(layout.prefixes[:1]) + key: shape for key, shape in layout.published(leaves).items()}


def as_original(state: State, keys: dict[str, Shape], convert: Callable[[State], State]) -> State:
    """diffusers' tensors under the original's keys. `convert` is diffusers' own reading of an original checkpoint, and
    the only source of which key is which: it is given tensors that hold their key's number.
    """
    import torch

    numbered = {key: torch.full(shape, float(n)) for n, (key, shape) in enumerate(keys.items())}
    names = list(keys)
    original = {}
    for key, value in convert(numbered).items():
        name = names[int(value.flatten()[0])]
        original[name] = state[key].reshape(keys[name])
    assert original.keys() == keys.keys()
    return original


def arrays(module: nnx.Module) -> State:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def assert_same_arrays(ours: nnx.Module, others: nnx.Module) -> None:
    expected = arrays(others)
    assert arrays(ours).keys() == expected.keys()
    for path, array in arrays(ours).items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def assert_close(ours: jax.Array, theirs, name: str = "") -> None:
    """A map of ours [n, h, w, c] against PyTorch's [n, c, h, w] in float64, within 1e-4 of the largest value."""
    b = theirs.detach().numpy()
    b = b.transpose(0, 2, 3, 1) if b.ndim == 4 else b
    assert ours.shape == b.shape
    assert b.std() > 0.05 * np.abs(b).max(), name  # a constant would prove nothing
    np.testing.assert_allclose(ours, b, rtol=0, atol=1e-4 * np.abs(b).max(), err_msg=name)
