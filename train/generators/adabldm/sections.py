"""What AdaBLDM adds to the report: the last contact sheets, its losses, what was said of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.preprocess import read_image
from train.generators.adabldm.watch import sentences
from train.pictures import PICTURES, as_address
from train.section import Section

LOSSES = ("domain_loss", "trimap_loss")
HELD_OUT = ("noise_of_normal", "noise_of_pairs")


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
    pictures = sorted((run.folder / PICTURES).glob("epoch_*.png"))
    shown = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, 4).astype(int))] if pictures else []
    drawn = [(as_address(read_image(path)), f"epoch {int(path.stem.removeprefix('epoch_'))}") for path in shown]
    config = run.config
    return (
        Section(
            "What is drawn",
            (
                "One row per pair: a real defect pasted on a normal image that was never trained on, its trimap, what "
                "the networks predict of it from three depths of noise, and a sample of noise alone in ten steps, held "
                "to nothing outside the defect. All are decoded as they are.",
            ),
            pictures=tuple(drawn),
        ),
        Section(
            "Training",
            (
                f"Epochs 1 to {config.domain_epochs}: the denoiser, on captioned images. From there on: the trimap "
                "encoder, on pairs; the denoiser stands still. An error of 1 is that of a fresh denoiser.",
                *kept,
            ),
            drawings=(curves(LOSSES), curves(HELD_OUT), curves(("share_by_trimap",))),
        ),
    )
