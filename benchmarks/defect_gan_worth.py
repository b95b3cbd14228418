"""What benchmarks/defect_gan.py measures, one function per kind of row. Each returns what its JSON file holds."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.checkpoint import Checkpoints
from train.classifier import CLASSIFIER
from train.classifier.fit import fit_classifier
from train.config import config_digest, find_config, load_config
from train.data.batches import load_images
from train.data.defect_split import read_split
from train.data.defects import DefectSample, DefectSet, open_defects
from train.data.folder import open_dataset
from train.defect_threshold import image_threshold
from train.detectors import find_detector
from train.fit import fit
from train.generators.fit import fit_generator
from train.generators.registry import find_generator
from train.generators.run import TrainedGenerator, open_generator
from train.metrics.auroc import auroc, rank
from train.quality.compare import Comparison, compare
from train.quality.networks import FeatureNetwork, feature_network
from train.run import TrainedRun, open_run, read_held_out, score_all

PAINTED_AT_ONCE = 8
OUTSIDE = 0.01  # of the mask: below it a pixel is the background's
CHECKED = 200  # images whose background is compared
MOST_PER_CATEGORY = 160  # images drawn for a distance
CHECKPOINTS = 6  # of a run, from the untrained one on
# The kinds of leather lie there in colours of their own, so that without it recolouring would be all there is to learn
OF_SET = {"leather_classes": ("match_light=true",)}
DETECTOR = ("image_size=64", "epochs=24", "steps_per_epoch=25", "batch_size=16", "validation_samples=64")
DRAWN_ABOVE = 0.1  # of the soft mask; an image whose mask stays below it everywhere is not counted as a defect
DRAWN_FOR_DETECTORS, DRAWN_FOR_CLASSIFIER, RESTORED = 250, 600, 120


@dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    data: Path
    runs: Path
    features: str
    as_it_is: bool = False  # a generator's run that has not ended is taken at its newest checkpoint

    @cached_property
    def network(self) -> FeatureNetwork:
        return feature_network(self.features)

    def defects(self, dataset: str) -> DefectSet:
        return open_defects(self.data / dataset)

    def generator(
        self, dataset: str, config_name: str = "cpu", settings: Sequence[str] = (), name: str = "cpu"
    ) -> Path:
        """The run folder of a generator, trained with every checkpoint kept unless it is there."""
        out = self.runs / f"{dataset}-{name}"
        if self.as_it_is and (out / "checkpoints").exists():
            return out
        system = find_generator("defect_gan")
        config = load_config(
            find_config(system.name, config_name), system.schema, (*OF_SET.get(dataset, ()), *settings)
        )
        defects = self.defects(dataset)
        fit_generator(system, config, defects, out, product=dataset, resume=out.exists(), keep_all=True)  # type: ignore[arg-type]
        return out

    def tag(self, dataset: str) -> str:
        """For what is made with a generator: from how far a training it is."""
        return f"of-{dataset}-{open_generator(self.generator(dataset)).step}"

    def synthesised(self, dataset: str, count: int, *, restore: bool = False) -> Path:
        """A folder that the command `synthesize` wrote."""
        out = self.runs / f"{'restored' if restore else 'drawn'}-{count}-{self.tag(dataset)}"
        words = ["synthesize", self.generator(dataset), "--data", self.data / dataset, "--out", out]
        words += ["--count", count, "--seed", 0, "--region", "image", "--mask-threshold", DRAWN_ABOVE]
        words += ["--restore"] if restore else []
        subprocess.run([sys.executable, "-m", "train", *map(str, words)], check=True)
        return out


def by_category(
    samples: Sequence[DefectSample], run: TrainedGenerator, most: int = MOST_PER_CATEGORY
) -> dict[str, np.ndarray]:
    """Images of each category at model size, those of several left out; the first ones in the set's order."""
    found = {}
    for category in run.categories:
        paths = [sample.path for sample in samples if sample.categories == (category,)][:most]
        if len(paths) > 1:
            found[category] = load_images(paths, run.preprocessing)
    return found


def normal_images(samples: Sequence[DefectSample], run: TrainedGenerator, most: int = 400) -> np.ndarray:
    return load_images([sample.path for sample in samples if sample.is_normal][:most], run.preprocessing)


def drawn(
    run: TrainedGenerator, normal: np.ndarray, counts: Mapping[str, int], seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sources, images and masks by category: the category is asked for all over the image."""
    found = {}
    for number, (category, count) in enumerate(counts.items()):
        order = np.random.default_rng([seed, number]).permutation(len(normal))
        sources = normal[np.resize(order, count)]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), count)
        size = run.config.image_size
        control = np.zeros((PAINTED_AT_ONCE, size, size, run.config.control_channels), np.float32)
        control[..., run.categories.index(category)] = 1
        images, masks = [], []
        for start in range(0, count, PAINTED_AT_ONCE):
            at = np.resize(np.arange(start, min(start + PAINTED_AT_ONCE, count)), PAINTED_AT_ONCE)
            some, mask = run.paint_batch(sources[at], control, keys[at])
            kept = min(PAINTED_AT_ONCE, count - start)
            images.append(some[:kept])
            masks.append(mask[:kept])
        found[category] = (sources, np.concatenate(images), np.concatenate(masks))
    return found


def about_run(folder: Path) -> dict[str, Any]:
    provenance = json.loads((folder / "provenance.json").read_text())
    run = open_generator(folder)
    return {
        "config_digest": provenance["config_digest"],
        "commit": provenance["commit"],
        "device": provenance["device"],
        "data_digest": provenance["data_digest"],
        "seed": run.config.seed,
        "generator_updates": run.step,
        "of_generator_updates": run.config.epochs * run.config.steps_per_epoch,
        "critic_updates": run.step * run.config.critic_steps,
    }


def training(bench: Bench, dataset: str) -> dict[str, Any]:
    """Whether the mask collapsed in any epoch, and whether the background is untouched outside of it."""
    folder = bench.generator(dataset)
    run = open_generator(folder)
    masks = {name: [round(epoch[name], 4) for epoch in run.figures] for name in ("mask_defect", "mask_restored")}
    flat = [value for values in masks.values() for value in values]
    normal = normal_images(bench.defects(dataset).held_out, run)
    each = max(min(CHECKED, len(normal)) // len(run.categories), 1)
    worst, outside, mean_mask = 0, [], []
    for sources, images, mask in drawn(run, normal, dict.fromkeys(run.categories, each)).values():
        is_outside = mask < OUTSIDE
        difference = np.abs(images.astype(int) - sources.astype(int)).max(axis=-1)
        worst = max(worst, int(difference[is_outside].max(initial=0)))
        outside.append(is_outside.mean())
        mean_mask.append(float(mask.mean()))
    return {
        **about_run(folder),
        "mean_mask_by_epoch": masks,
        "smallest_mean_mask": min(flat),
        "largest_mean_mask": max(flat),
        "mean_mask_by_category_on_held_out_normal_images": dict(zip(run.categories, mean_mask, strict=True)),
        "collapsed": not 0.005 <= min(flat) <= max(flat) <= 0.5,
        "background_max_abs_grey_levels": worst,
        "pixels_outside_the_mask": float(np.mean(outside)),
        "images_checked": each * len(run.categories),
    }


def distance(bench: Bench, dataset: str) -> dict[str, Any]:
    """To real training defects by step; to held-out ones once, at the end; and that of the normal images themselves."""
    folder = bench.generator(dataset)
    defects, last = bench.defects(dataset), open_generator(folder)
    normal, real = normal_images(defects.normal, last), by_category(defects.defective, last)
    counts = {name: len(images) for name, images in real.items()}
    with Checkpoints(folder / "checkpoints", last.generator.monitor) as checkpoints:
        kept = [0, *checkpoints.steps]
    steps = sorted({kept[i] for i in np.linspace(0, len(kept) - 1, CHECKPOINTS).astype(int)})
    curve = []
    for step in steps:
        made = {
            name: images for name, (_, images, _) in drawn(open_generator(folder, step=step), normal, counts).items()
        }
        curve.append({"step": step, **shortened(compare(real, made, bench.network))})
    held_out = by_category(defects.held_out, last)
    counts = {name: len(images) for name, images in held_out.items()}
    held_out_normal = normal_images(defects.held_out, last)
    sources = {name: s for name, (s, _, _) in drawn(last, held_out_normal, counts, seed=1).items()}
    made = {name: images for name, (_, images, _) in drawn(last, held_out_normal, counts, seed=1).items()}
    final = compare(held_out, made, bench.network)
    return {
        **about_run(folder),
        "figure": final.frechet_name,
        "weights": final.weights,
        "size": final.size,
        "to_training_defects_by_step": curve,
        "to_held_out_defects": shortened(final, detailed=True),
        "normal_images_to_held_out_defects": shortened(compare(held_out, sources, bench.network)),
    }


def shortened(found: Comparison, *, detailed: bool = False) -> dict[str, Any]:
    whole = found.together
    short = {
        "n_real": whole.n_real,
        "n_generated": whole.n_generated,
        "frechet": whole.frechet,
        "frechet_matched": whole.frechet_matched,
        "frechet_floor": whole.frechet_floor,
        "kernel": whole.kernel,
        "kernel_floor": whole.kernel_floor,
    }
    if not detailed:
        return short
    by_class = {name: asdict(figures) for name, figures in found.by_class.items()}
    diversity = {name: asdict(figures) for name, figures in found.diversity.items()}
    return {**short, "by_class": by_class, "diversity_called": found.perceptual_name, "diversity": diversity}


def ablation(bench: Bench, dataset: str, config: str, settings: Sequence[str], name: str) -> dict[str, Any]:
    """A short training with a part of the method left out; the distance of what its last checkpoint draws."""
    folder = bench.generator(dataset, config, settings, name)
    defects, run = bench.defects(dataset), open_generator(folder)
    figures = {}
    for side, samples, seed in (("training", defects.defective, 0), ("held_out", defects.held_out, 1)):
        real = by_category(samples, run)
        normal = normal_images(defects.normal if side == "training" else defects.held_out, run)
        counts = {category: len(images) for category, images in real.items()}
        made = {category: images for category, (_, images, _) in drawn(run, normal, counts, seed).items()}
        figures[f"to_{side}_defects"] = shortened(compare(real, made, bench.network))
    last = run.figures[-1]
    masks = {key: last[key] for key in ("mask_defect", "mask_restored") if key in last}
    return {
        **about_run(folder),
        "config": config,
        "settings": [*OF_SET.get(dataset, ()), *settings],
        "figure": bench.network.frechet,
        **masks,
        **figures,
    }


def classifier(bench: Bench, dataset: str, arm: str, seed: int) -> dict[str, Any]:
    """Accuracy on real test images, of a classifier that saw drawn defects and restored images, or did not."""
    settings = [f"seed={seed}", *(["source_weight=0.1"] if arm == "drawn, source reversed" else [])]
    config = load_config(find_config(CLASSIFIER.name, "cpu"), CLASSIFIER.schema, settings)
    synthetic, name = [], arm.replace(", ", "-").replace(" ", "-")
    if arm != "real":
        synthetic = [
            bench.synthesised(dataset, DRAWN_FOR_CLASSIFIER),
            bench.synthesised(dataset, RESTORED, restore=True),
        ]
        name = f"{name}-{bench.tag(dataset)}"
    out = bench.runs / f"{dataset}-classifier-{name}-{seed}"
    result = fit_classifier(config, bench.defects(dataset), out, synthetic=synthetic, resume=out.exists())  # type: ignore[arg-type]
    generator = about_run(bench.generator(dataset)) if synthetic else None
    return {"arm": arm, "seed": seed, **asdict(result), "config_digest": config_digest(config), "generator": generator}


def detector_run(bench: Bench, dataset: str, arm: str, seed: int) -> Path:
    """AESc at the generator's size, corrupted by Stain, by drawn defects, or by each on half of the images."""
    share = {"stain": 0.0, "drawn": 1.0, "both": 0.5}[arm]
    settings, name = [*DETECTOR, f"seed={seed}"], arm
    if share:
        name = f"{arm}-{bench.tag(dataset)}"
        settings += [f"defects={bench.synthesised(dataset, DRAWN_FOR_DETECTORS)}", f"defects_share={share}"]
    aesc = find_detector("aesc")
    config = load_config(find_config("aesc", "cpu"), aesc.schema, settings)
    out = bench.runs / f"{dataset}-aesc-{name}-{seed}"
    fit(aesc, config, open_dataset(bench.data / dataset), out, product=dataset, resume=out.exists())
    return out


@dataclass(frozen=True)
class Scores:
    """Of one detector, on images that neither it nor the generator was trained on."""

    good: np.ndarray  # test images
    real: np.ndarray  # held-out real defects
    held_out: np.ndarray  # good images of the run's own, for thresholds
    drawn: np.ndarray  # generated defects

    @classmethod
    def of(cls, run: TrainedRun, bench: Bench, dataset: str) -> "Scores":
        known = read_split(bench.generator(dataset))
        test = open_dataset(bench.data / dataset).test
        generated = sorted((bench.synthesised(dataset, DRAWN_FOR_DETECTORS) / "test").glob("*/*.png"))

        def score(paths: list[Path]) -> np.ndarray:
            return score_all(run, load_images(paths, run.preprocessing))[0]

        return cls(
            score([sample.path for sample in test if sample.is_good]),
            score([sample.path for sample in test if not (sample.is_good or known.knows(sample.path))]),
            score_all(run, read_held_out(run)[0])[0],
            score([path for path in generated if path.parent.name != "good"]),
        )

    def auroc_of(self, good: np.ndarray, bad: np.ndarray) -> float:
        found = auroc(rank(np.concatenate([good, bad]), np.repeat([False, True], [len(good), len(bad)])))
        assert found is not None
        return found

    def rates(self, threshold: float) -> dict[str, float]:
        return {
            "threshold": threshold,
            "false_reject_rate": float((self.good > threshold).mean()),
            "escape_rate": float((self.real <= threshold).mean()),
            "mean_of_both": float(((self.good > threshold).mean() + (self.real <= threshold).mean()) / 2),
        }


def aesc(bench: Bench, dataset: str, arm: str, seed: int) -> dict[str, Any]:
    """AUROC of a detector on held-out real defects, and what thresholds let through."""
    folder = detector_run(bench, dataset, arm, seed)
    candidates = {}
    for scoring in ("residual", "uncertainty"):
        run = open_run(folder, [f"scoring={scoring}"])
        assert run.thresholds is not None
        scores = Scores.of(run, bench, dataset)
        ideal, _, _ = image_threshold(scores.good, scores.real)
        candidates[scoring] = {
            "auroc_real": scores.auroc_of(scores.good, scores.real),
            "auroc_drawn": scores.auroc_of(scores.held_out, scores.drawn),
            "threshold_of_good_images": scores.rates(run.thresholds.image),
            "threshold_of_drawn_defects": scores.rates(image_threshold(scores.held_out, scores.drawn)[0]),
            "threshold_chosen_on_the_test_images": scores.rates(ideal),
            "n_good": len(scores.good),
            "n_real": len(scores.real),
            "n_held_out": len(scores.held_out),
            "n_drawn": len(scores.drawn),
        }
    return {
        "arm": arm,
        "seed": seed,
        "config_digest": config_digest(open_run(folder).config),
        "generator": about_run(bench.generator(dataset)),
        **candidates,
    }


def selection(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all detectors of `aesc`, the one that drawn defects prefer, beside the one that real defects would."""
    found = [
        {"arm": row["arm"], "seed": row["seed"], "scoring": scoring, **row[scoring]}
        for row in rows
        for scoring in ("residual", "uncertainty")
    ]
    by_drawn = max(found, key=lambda one: one["auroc_drawn"])
    by_real = max(found, key=lambda one: one["auroc_real"])
    ranks = [np.argsort(np.argsort([one[key] for one in found])) for key in ("auroc_drawn", "auroc_real")]

    def named(one: Mapping[str, Any]) -> dict[str, Any]:
        return {key: one[key] for key in ("arm", "seed", "scoring", "auroc_drawn", "auroc_real")}

    return {
        "candidates": [named(one) for one in found],
        "chosen_by_drawn_defects": named(by_drawn),
        "best_on_real_defects": named(by_real),
        "mean_auroc_real_of_all": float(np.mean([one["auroc_real"] for one in found])),
        "rank_correlation": float(np.corrcoef(ranks)[0, 1]),
        "generator": rows[0]["generator"],
    }
