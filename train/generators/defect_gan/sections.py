"""What Defect-GAN adds to the report: the last contact sheets, its losses, and its masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.preprocess import read_image
from train.generators.defect_gan.picture import PER_CATEGORY
from train.generators.defect_gan.watch import MASKS, sentences
from train.pictures import PICTURES, as_address
from train.section import Section

LOSSES = ("critic_loss", "generator_loss")
TERMS = ("class_real", "class_drawn", "reconstruction", "penalty")


def sections(run: Any) -> Sequence[Section]:
    """Of a TrainedGenerator."""
    from train.report.figures import curves_figure

    def curves(names: Sequence[str]) -> str:
        shown = {name: [epoch.get(name, np.nan) for epoch in run.figures] for name in names}
        return curves_figure({name.replace("_", " "): values for name, values in shown.items()}, "epoch", "")

    said = [
        f"Epoch {epoch + 1}: {text}" for epoch, seen in enumerate(run.figures) for text in sentences(seen, run.config)
    ]
    kept = said if len(said) <= 4 else [*said[:2], f"(... {len(said) - 4} more)", *said[-2:]]
    names = ", ".join(run.categories)
    pictures = sorted((run.folder / PICTURES).glob("epoch_*.png"))
    shown = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, 4).astype(int))] if pictures else []
    drawn = [(as_address(read_image(path)), f"epoch {int(path.stem.removeprefix('epoch_'))}") for path in shown]
    return (
        Section(
            "What is drawn",
            (
                f"One row per category ({names}), {PER_CATEGORY} times normal, mask, defect, restored. The normal "
                "images were never trained on.",
            ),
            pictures=tuple(drawn),
        ),
        Section(
            "Training",
            tuple(kept) or ("The mean mask stayed between its limits in every epoch.",),
            drawings=(curves(LOSSES), curves(TERMS), curves(tuple(MASKS)), curves(("closeness",))),
        ),
    )
