"""The interface of a generator: plain functions, gathered under its name.

Shape letters: n images, s side of the model's images in pixels, k control channels: one for each category, in the
order of `config.categories`, and a last one that asks for a normal part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Key, UInt8

from train.data.defects import DefectSample
from train.epochs import Material
from train.generators.kept import Kept
from train.memory import MemoryEstimate
from train.system import System

Images = UInt8[Array, "n s s 3"]
Control = Float[Array, "n s s k"]
Keys = Key[Array, " n"]
Noise = Float[Array, "n z"]  # all that an image's drawing is random by, as one row of numbers


class Painted(NamedTuple):
    """What a generator made of images."""

    images: UInt8[Array, "n s s 3"]
    mask: Float[Array, "n s s"]  # in [0, 1]: how much of a pixel is new; where it is 0 the image is as it was


@dataclass(frozen=True, kw_only=True)
class Generator(System):
    """One published method. Images are uint8 RGB at model size; normalisation is the generator's own."""

    # (config, normal samples, defective ones, normal ones never trained on, what the run keeps) -> what training is fed
    prepare: Callable[[Any, Sequence[DefectSample], Sequence[DefectSample], Sequence[DefectSample], Any], Material]
    # (model, what the run keeps, config) -> weights of what paints (any tree of arrays)
    fold: Callable[[Any, Any, Any], Any]
    kept: Kept | None = None  # beside the checkpoints; None: nothing is
    # (config, name of the product) -> the config with what only these decide
    settled: Callable[[Any, str], Any] = lambda config, product: config
    memory: Callable[[Any], MemoryEstimate] | None = None  # config -> what its training takes
    # Where one pass of a network draws: (one key per image, config) -> the noise that `paint` takes
    draw_noise: Callable[[Keys, Any], Noise] | None = None
    # (weights, images, control, noise, strength in (0, 1], config) -> Painted; pure and traceable
    paint: Callable[[Any, Images, Control, Noise, Any, Any], Painted] | None = None
    # Where it takes more: (TrainedGenerator, synthesis.wishes.Wishes) -> what draws, a synthesis.task.Painter
    painter: Callable[[Any, Any], Any] | None = None
