"""A network filled from a file that its user brings, in any of the key layouts that it is published in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from flax import nnx

from train.backbones.errors import WeightsError
from train.backbones.layout import Layout, Shape
from train.backbones.matching import closest, converted, filled, misfit, not_finite, shapes_of
from train.backbones.weight_file import WeightFile, open_weights

M = TypeVar("M", bound=nnx.Module)
Leaves = Mapping[str, Shape]

# What else a checkpoint of Stable Diffusion or ControlNet holds: other networks, the noise schedule, counters.
CHECKPOINT = (
    r"(model|model_ema|first_stage_model|cond_stage_model|control_model)\..*"
    r"|(betas|alphas|sqrt|log|posterior|lvlb)\w*|scale_factor|logvar"
)


class Names(NamedTuple):
    """How a layout calls our layers: places first, then layers inside a place."""

    places: Mapping[str, str]  # path of ours -> prefix of theirs; the longest that fits counts
    inside: Mapping[str, str]  # the rest of the path -> theirs; what is not listed stays

    def key(self, path: str) -> str:
        parts = path.split(".")
        for count in range(len(parts), 0, -1):
            if (place := self.places.get(".".join(parts[:count]))) is not None:
                rest = ".".join(parts[count:])
                rest = self.inside.get(rest, rest)
                return f"{place}.{rest}" if rest else place
        raise KeyError(path)


class Published(NamedTuple):
    """A network that others publish weights of."""

    name: str  # for people
    layouts: Callable[[Leaves], tuple[Layout, ...]]  # of a network of these arrays


def load(network: M, published: Published, path: Path) -> M:
    """A network of shapes (built without Rngs) with the weights of a file in place of them.

    Raises:
        WeightsError: the file is of another network or layout, incomplete, damaged or unsafe.
    """
    leaves = shapes_of(network)
    file, layouts = open_weights(path), published.layouts(leaves)
    layout = closest(layouts, file, leaves)
    if problem := misfit(layout, file, layout.published(leaves)):
        raise WeightsError(_refusal(file, published.name, layouts, leaves, problem))
    arrays = converted(layout, file, leaves)
    if (leaf := not_finite(arrays)) is not None:
        raise WeightsError(f"{path}: {leaf} of {published.name} has values that are not finite. Bring another file.")
    return filled(network, arrays)


def _refusal(file: WeightFile, name: str, layouts: Sequence[Layout], leaves: Leaves, problem: str) -> str:
    found = {layout.plain(key) for layout in layouts for key in file.shapes}
    if any(key in found for layout in layouts for key in layout.published(leaves)):
        return f"{file.path} does not fit {name}: {problem}. Set the sizes that it was trained with, or bring its file."
    expected = " or ".join(
        f"{''.join(layout.prefixes[:1])}{next(iter(layout.published(leaves)))} ({layout.name})" for layout in layouts
    )
    first = next(iter(file.shapes), None)
    held = f"its first key is {first}" if first else "it holds no tensors"
    return f"{file.path} is not {name}: {held}, and none of its keys is known. Expected was, say, {expected}."
