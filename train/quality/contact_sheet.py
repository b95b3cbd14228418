"""Generated images as a person should see them first: normal, mask, defect and restored side by side, per class."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from train.pictures import as_address, grid
from train.section import Section


class Shown(NamedTuple):
    """What a generator made of normal images; nothing is chosen, and nothing left out."""

    normal: UInt8[np.ndarray, "n s s 3"]
    mask: Float[np.ndarray, "n s s"]  # 0 to 1
    defect: UInt8[np.ndarray, "n s s 3"]
    restored: UInt8[np.ndarray, "n s s 3"]


def sheet(shown: Shown) -> UInt8[np.ndarray, "h w 3"]:
    """A row per image: normal, mask, defect, restored."""
    mask = np.round(np.clip(shown.mask, 0, 1) * 255).astype(np.uint8)
    columns = (shown.normal, np.repeat(mask[..., None], 3, axis=-1), shown.defect, shown.restored)
    return grid(np.stack(columns, axis=1).reshape(-1, *shown.normal.shape[1:]), columns=len(columns))


def contact_sheet(by_class: Mapping[str, Shown], notes: tuple[str, ...] = ()) -> Section:
    """For a report."""
    pictures = tuple(
        (as_address(sheet(shown)), f"{name}: normal, mask, defect, restored") for name, shown in by_class.items()
    )
    return Section("Contact sheet: normal, mask, defect, restored", notes, pictures=pictures)
