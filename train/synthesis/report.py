"""OUT/report.html: how a job's images came about, stage after stage, and what was measured of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.preprocess import read_image
from train.data.synthetic import JOB_FILE, PROVENANCE, SHEETS
from train.pictures import as_address
from train.report.generator_page import write_generator_report
from train.section import Section

SHOWN = 4  # strips of each category
MEANT = (
    "Of {n} images, grey levels from 0 to 1. PSNR (dB) and error (mean difference) compare with the normal image "
    "outside the mask, before and after the adaptation. Change ratio: mean difference inside the mask over that "
    "outside. AUROC: of the difference against the mask."
)


def write_job_report(out: Path) -> None:
    """Of what a job's folder holds; the same page for the same files. Nothing where no sheets were wished for."""
    paths = sorted((out / SHEETS).glob("*/*.png"))
    if not paths:
        return
    job = json.loads((out / JOB_FILE).read_text())
    generator = job.pop("generator")
    columns = " | ".join(generator["drawing"]["sheets"])
    notes = [
        json.loads((out / PROVENANCE / path.parent.name / f"{path.stem}.json").read_text())["drawing"]
        for path in paths
        if (out / PROVENANCE / path.parent.name / f"{path.stem}.json").exists()
    ]
    write_generator_report(
        out / "report.html",
        system=generator["system"],
        product=generator["product"],
        step=generator["step"],
        headline=f"{len(paths)} defects drawn on {generator['product']}",
        config={**generator.pop("drawing"), **job},
        provenance=generator,
        sections=(_stages(paths, columns), _fidelity(notes)),
    )


def _stages(paths: Sequence[Path], columns: str) -> Section:
    of_category: dict[str, list[Path]] = {}
    for path in paths:
        of_category.setdefault(path.parent.name, []).append(path)
    pictures = [
        (as_address(read_image(path)), f"{category}, image {int(path.stem)}")
        for category, found in of_category.items()
        for path in found[:SHOWN]
    ]
    return Section("Stage after stage", (f"The first {SHOWN} of each category: {columns}.",), pictures=tuple(pictures))


def _fidelity(notes: Sequence[Mapping[str, Any]]) -> Section:
    """Mean and range of every figure that images have."""
    found: dict[str, list[float]] = {}
    for note in notes:
        for name, value in note.get("fidelity", {}).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    sentences = [
        f"{name.replace('_', ' ')}: {np.mean(values):.4g} on average, {min(values):.4g} to {max(values):.4g}"
        for name, values in found.items()
    ]
    return Section("Fidelity", (MEANT.format(n=len(notes)), *sentences))
