"""Strips of pictures: how an image came about, stage after stage.

normal | trimap | at the end of each stage, the last one being what is adapted | after the adaptation | difference

What stands at the end of a stage but the last is what the latent was then to become: what the denoiser takes for the
clean one. Shape letters: n images, s x s pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, UInt8

from train.generators.adabldm.drawing import Drawn
from train.generators.adabldm.stages import Edits, Stages
from train.pictures import grid, to_bytes

AMPLIFIED = 4  # a difference of a quarter of the range is white


def columns_of(stages: Stages) -> tuple[str, ...]:
    """What each picture of a strip shows."""
    ends = [_called(edits) for edits, _, _ in stages.stretches()]
    ends[-1] += " = before adaptation"
    return ("normal", "trimap", *(f"after {end}" for end in ends), "after adaptation", f"difference x {AMPLIFIED}")


def strips(
    normal: UInt8[np.ndarray, "n s s 3"],
    trimap: Float[Array, "n s s"] | Float[np.ndarray, "n s s"],
    seen: Sequence[Float[Array, "n s s 3"]],
    drawn: Drawn,
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """One for each image; `seen` is what `Drawing.seen` gives."""
    after = to_bytes(drawn.adapted.image)
    change = np.abs(after.astype(np.int32) - normal).max(axis=-1, keepdims=True)
    columns = [
        normal,
        _as_colour(np.rint(255 * np.asarray(trimap))[..., None]),
        *(to_bytes(images) for images in seen),
        after,
        _as_colour(AMPLIFIED * change),
    ]
    return [grid(np.stack(row), columns=len(columns)) for row in zip(*columns, strict=True)]


def _called(edits: Edits) -> str:
    return " and ".join(name for name, on in zip(("latent edit", "image edit"), edits, strict=True) if on) or "free"


def _as_colour(grey: np.ndarray) -> UInt8[np.ndarray, "n s s 3"]:
    levels: np.ndarray = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(levels, 3, axis=-1)
