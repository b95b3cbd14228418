"""How a run's figures on the test set went from epoch to epoch: does a detector peak and fall?

    python benchmarks/training_curve.py fastflow --data ../shared/data --set mvtec_ad/bottle \\
        --settings backbone_weights=../shared/weights/resnet18_stem_l123_bnfolded.safetensors

Trains into the run folder that benchmarks/accuracy.py uses, keeping the checkpoint of every epoch, then judges each of
them on the test set, and before them the parameters as they were drawn (step 0), and writes
benchmarks/results/curves/SET-SYSTEM-DIGEST.json. It is a diagnosis: nothing is chosen from it. Image figures are of all
test images, pixel figures of every `--pixel-stride`-th row and column.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edge_agent.preprocess import prepare, prepare_mask, read_image, read_mask
from train.checkpoint import Checkpoints
from train.config import config_digest, find_config, load_config
from train.data.folder import open_dataset
from train.detectors import find_detector
from train.durable import write_text
from train.fit import fit
from train.metrics.auroc import auroc, rank
from train.run import TrainedRun, open_run, score_all

RESULTS = Path(__file__).parent / "results" / "curves"


def main(
    system: Annotated[str, typer.Argument(help="A detector.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the sets.")],
    dataset: Annotated[str, typer.Option("--set", help="Folder below --data.")],
    config: Annotated[str, typer.Option(help="NAME of configs/SYSTEM/ or a file.")] = "cpu",
    settings: Annotated[list[str], typer.Option(help="KEY=VALUE, repeatable.")] = [],  # noqa: B006
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs/accuracy"),
    every: Annotated[int, typer.Option(help="Judge every n-th checkpoint, and the last.")] = 1,
    pixel_stride: Annotated[int, typer.Option(help="Pixels apart.")] = 2,
) -> None:
    """Train with all checkpoints kept, then judge them."""
    detector = find_detector(system)
    resolved = load_config(find_config(system, config), detector.schema, settings)
    name = f"{dataset.replace('/', '-')}-{system}-{config_digest(resolved)}"
    images = open_dataset(data / dataset)
    if not (runs / name / "thresholds.json").exists():
        resume = (runs / name).exists()
        fit(detector, resolved, images, runs / name, product=Path(dataset).name, resume=resume, keep_all=True)
    preprocessing = open_run(runs / name).preprocessing
    test = np.stack([prepare(read_image(sample.path), preprocessing) for sample in images.test])
    defective = np.array([not sample.is_good for sample in images.test])
    known = np.array([sample.is_good or sample.mask is not None for sample in images.test])
    masks = np.zeros(test.shape[:3], bool)
    for mask, sample in zip(masks, images.test, strict=True):
        if sample.mask:
            mask[:] = prepare_mask(read_mask(sample.mask), preprocessing)
    fine = slice(None, None, pixel_stride)

    def judged(run: TrainedRun, step: int) -> dict[str, float]:
        scores, maps = score_all(run, test)
        figures = {
            "step": step,
            "image_auroc": auroc(rank(scores, defective)),
            "image_auroc_of_the_highest_pixel": auroc(rank(maps.max(axis=(1, 2)), defective)),
            "pixel_auroc": auroc(rank(maps[known][:, fine, fine], masks[known][:, fine, fine])),
        }
        print(json.dumps(figures), file=sys.stderr, flush=True)
        return figures

    with Checkpoints(runs / name / "checkpoints", detector.monitor, keep_all=True) as checkpoints:
        steps = checkpoints.steps
    curve = [judged(open_run(runs / name, step=0), 0)]
    for step in sorted({*steps[every - 1 :: every], steps[-1]}):
        curve.append(judged(open_run(runs / name, step=step), step))
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {
        "set": dataset,
        "system": system,
        "config": config,
        "config_digest": config_digest(resolved),
        "settings": [setting for setting in settings if not setting.startswith("backbone_weights=")],
        "seed": resolved.seed,
        "pixel_stride": pixel_stride,
        "curve": curve,
    }
    write_text(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
