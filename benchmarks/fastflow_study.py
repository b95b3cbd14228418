"""Why do FastFlow's figures peak and fall? One change at a time, judged without any test image.

    python benchmarks/fastflow_study.py --data ../shared/data --backbone-weights FILE [--only whiten]

Each variant is trained on the training images but for the held-out ones, and judged every epoch on those: the held-out
good images against copies of them with a synthetic defect (a small stain of 1 to 4 % of the side, or a scratch), image
and pixel AUROC, with the highest pixel and with the mean of the highest 1 %. The same once more under another light:
all images 7.5 % darker (pixels), and only the good ones (images), for in one copy of screw the good test images are
that much darker than those for training, and the defective ones are not. 128 px, 120 steps of 16 images: small enough
to try many. One JSON per set and variant in benchmarks/results/fastflow_study; what is there is not run again.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from train.checkpoint import Checkpoints
from train.config import find_config, load_config
from train.data.folder import open_dataset
from train.data.noise import Stain, corrupt
from train.detectors import find_detector
from train.durable import write_text
from train.fit import fit
from train.metrics.auroc import auroc, rank
from train.run import open_run, read_held_out, score_all

RESULTS = Path(__file__).parent / "results" / "fastflow_study"
COMMON = ("image_size=128", "epochs=12", "steps_per_epoch=10", "batch_size=16", "validation_samples=16")
PLAIN = ("feature_noise=0", "schedule=constant", "average_decay=0", "top_share=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "layer_norm (paper)": (*PLAIN, "normalisation=layer_norm"),
    "layer_norm_affine (ports)": (*PLAIN, "normalisation=layer_norm_affine"),
    "layer_norm, noise 0.1": (*PLAIN, "normalisation=layer_norm", "feature_noise=0.1"),
    "standardise": (*PLAIN, "normalisation=standardise"),
    "whiten": PLAIN,
    "whiten, noise 0.2": (*PLAIN, "feature_noise=0.2"),
    "whiten, noise 0.2, cosine": (*PLAIN, "feature_noise=0.2", "schedule=cosine"),
    "whiten, noise 0.2, average": (*PLAIN, "feature_noise=0.2", "average_decay=0.98"),
    "cpu": (),
    "cpu, decoupled weight decay": ("weight_decay_form=decoupled",),
    "cpu, no weight decay": ("weight_decay=0",),
    "cpu, double coupling": ("coupling=double",),
    "cpu, 3x3 and 1x1": ("kernels=3x3_1x1",),
    "cpu, clamp 1": ("clamp=1",),
}
WEIGHTS = (0.0, 0.25, 1.0)  # of the log-determinant in the map
SMALL = Stain(0.01, 0.04, 10, 220, 0.1, 0.0)
DIMMED = 0.925  # of the light
CHANGED = 8  # grey levels; what differs by more from the clean image is defect


SHOWN = (
    "pixel_auroc",
    "image_auroc_top_1_percent",
    "pixel_auroc_dimmed",
    "image_auroc_top_1_percent_good_dimmed",
)


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds the sets.")],
    backbone_weights: Annotated[Path, typer.Option(help="ResNet18's weights.")],
    sets: Annotated[str, typer.Option(help="Below --data, with commas between.")] = "mvtec_ad/screw,mvtec_ad/bottle",
    seeds: Annotated[str, typer.Option(help="With commas between.")] = "0",
    only: Annotated[str, typer.Option(help="Only variants that hold this text.")] = "",
) -> None:
    """Run what is missing and print all."""
    for dataset in sets.split(","):
        for seed in map(int, seeds.split(",")):
            for name, settings in VARIANTS.items():
                path = RESULTS / f"{dataset.replace('/', '-')}-{_slug(name)}-{seed}.json"
                if only in name and not path.exists():
                    record = measure(data / dataset, backbone_weights, settings, seed)
                    RESULTS.mkdir(parents=True, exist_ok=True)
                    write_text(path, json.dumps({"set": dataset, "variant": name, "seed": seed, **record}) + "\n")
    print("\n".join(as_table()))


def measure(folder: Path, weights: Path, settings: tuple[str, ...], seed: int) -> dict[str, object]:
    """Trains one variant and judges each of its checkpoints."""
    detector = find_detector("fastflow")
    overrides = [*COMMON, *settings, f"seed={seed}", f"backbone_weights={weights}"]
    config = load_config(find_config("fastflow", "cpu"), detector.schema, overrides)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        fit(detector, config, open_dataset(folder), out, product=folder.name, keep_all=True)
        run = open_run(out)
        good = read_held_out(run)[0]
        defective, masks = synthetic_defects(good, seed)
        with Checkpoints(out / "checkpoints", detector.monitor, keep_all=True) as checkpoints:
            steps = checkpoints.steps
        judged = {}
        for weight in WEIGHTS:
            chosen = steps[1::2] if weight == 0 else steps[-1:]
            judged[f"log_det_weight {weight:g}"] = [
                {
                    "step": step,
                    **_figures(open_run(out, [f"log_det_weight={weight}"], step=step), good, defective, masks),
                }
                for step in chosen
            ]
    return {"settings": list(settings), "n_held_out": len(good), "curves": judged}


def synthetic_defects(good: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of good images, every other one with a small stain, the others with a scratch; and where they differ."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 77))
    clean = jax.numpy.asarray(good, jax.numpy.float32) / 255
    stained, scratched = corrupt(keys[0], clean, "stain", SMALL), corrupt(keys[1], clean, "scratch")
    even = (np.arange(len(good)) % 2 == 0)[:, None, None, None]
    defective = np.asarray(jax.numpy.round(255 * np.where(even, stained, scratched)), np.uint8)
    masks = np.abs(defective.astype(int) - good.astype(int)).max(axis=-1) > CHANGED
    return defective, masks


def _figures(run, good: np.ndarray, defective: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    bright = np.concatenate([good, defective])
    maps, dim_maps = (score_all(run, images)[1] for images in (bright, dimmed(bright)))
    truth = np.concatenate([np.zeros_like(masks), masks])
    is_defective = np.arange(len(maps)) >= len(good)
    some_dim = np.where(is_defective[:, None, None], maps, dim_maps)
    figures = {
        "pixel_auroc": auroc(rank(maps, truth)),
        **_image_figures(maps, is_defective),
        "pixel_auroc_dimmed": auroc(rank(dim_maps, truth)),
        **{f"{name}_good_dimmed": value for name, value in _image_figures(some_dim, is_defective).items()},
    }
    print(json.dumps({"step": run.step, **figures}), file=sys.stderr, flush=True)
    return figures


def _image_figures(maps: np.ndarray, is_defective: np.ndarray) -> dict[str, float]:
    highest = np.sort(maps.reshape(len(maps), -1), axis=1)[:, ::-1]
    top = highest[:, : max(round(0.01 * highest.shape[1]), 1)].mean(axis=1)
    return {
        "image_auroc_highest": auroc(rank(highest[:, 0], is_defective)),
        "image_auroc_top_1_percent": auroc(rank(top, is_defective)),
    }


def dimmed(images: np.ndarray) -> np.ndarray:
    return np.round(DIMMED * images).astype(np.uint8)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c == "." else "_" for c in name)


def as_table() -> list[str]:
    """Markdown: the last step, and how far below the best step of the same run it ends."""
    lines = [
        "| set | variant | seed | pixel | fall | image, top 1 % | fall | pixel, dimmed | fall "
        "| image, good dimmed | fall | pixel, log-det 0.25 / 1 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = list(VARIANTS)
    records = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    for record in sorted(records, key=lambda r: (r["set"], order.index(r["variant"]), r["seed"])):
        curve = record["curves"]["log_det_weight 0"]
        cells = []
        for key in SHOWN:
            last, best = curve[-1][key], max(point[key] for point in curve)
            cells += [f"{last:.3f}", f"{best - last:.3f}"]
        weighted = [record["curves"][f"log_det_weight {weight:g}"][-1]["pixel_auroc"] for weight in WEIGHTS[1:]]
        others = " / ".join(f"{value:.3f}" for value in weighted)
        lines.append(f"| {record['set']} | {record['variant']} | {record['seed']} | {' | '.join(cells)} | {others} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
