"""Whether a file of weights is of a network, and the network filled with it."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.backbones.backbone import dotted
from train.backbones.layout import Layout, Shape
from train.backbones.position import PositionPart
from train.backbones.weight_file import WeightFile

M = TypeVar("M", bound=nnx.Module)


def shapes_of(module: nnx.Module) -> dict[str, Shape]:
    """Dotted path -> shape of every array."""
    return {dotted(path): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def closest(layouts: Sequence[Layout], file: WeightFile, leaves: Mapping[str, Shape]) -> Layout:
    """The layout that shares most keys with the file."""

    def fit(layout: Layout) -> int:
        found = {layout.plain(key) for key in file.shapes}
        return sum(key in found for key in layout.published(leaves)) - sum(not layout.ignores(key) for key in found)

    return max(layouts, key=fit)


def misfit(layout: Layout, file: WeightFile, needed: Mapping[str, Shape]) -> str:
    """What keeps a file from being of this layout; empty if nothing does."""
    found = {layout.plain(key): shape for key, shape in file.shapes.items()}
    missing = [key for key in needed if key not in found]
    extra = [key for key in found if key not in needed and not layout.ignores(key)]
    wrong = [key for key, shape in needed.items() if key in found and found[key] != shape]
    if missing and len(missing) > len(needed) / 2:
        return f"{missing[0]} and {len(missing) - 1} more of its {len(needed)} tensors are not in it"
    if wrong:
        key = wrong[0]
        part = layout.parts.get("position")
        if isinstance(part, PositionPart) and part.key == key and len(found[key]) == 3:
            return part.misfit(found[key])
        return f"{key} is {described(found[key])} in the file and {described(needed[key])} in the network"
    if missing:
        return f"{_first(missing)} not in it"
    return f"{_first(extra)} in it, but not in the network" if extra else ""


def converted(layout: Layout, file: WeightFile, leaves: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Path -> array of the whole network, of a file that fits."""
    names = {layout.plain(key): key for key in file.shapes}
    return layout.convert(lambda key: file.read(names[key]), leaves)


def not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The path of an array that holds NaN or infinity."""
    return next((path for path, array in arrays.items() if not np.isfinite(array).all()), None)


def filled(module: M, arrays: Mapping[str, np.ndarray]) -> M:
    """A network of shapes with float32 arrays in place of them."""
    graph, state = nnx.split(module)
    flat = [(p, leaf.replace(jnp.asarray(arrays[dotted(p)], jnp.float32))) for p, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def described(shape: Shape | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) if shape else "one number"


def _first(keys: list[str]) -> str:
    return f"{keys[0]} is" if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more are"
