"""What benchmarks/adabldm.py measures, one function per kind of row. Each returns what its JSON file holds."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from defect_gan_worth import shortened

from train.config import config_digest, find_config, load_config
from train.data.batches import load_images
from train.data.defect_mask import load_defect_mask
from train.data.defect_split import SPLIT_FILE
from train.data.defects import DefectSample, DefectSet, open_defects, split_json
from train.data.folder import open_dataset
from train.data.synthetic import JOB_FILE
from train.durable import write_text
from train.generators.adabldm.pairs import Sources, make_pairs
from train.generators.adabldm.trimap import DEFECT
from train.generators.adabldm.weights import foreground_of
from train.generators.fit import fit_generator
from train.generators.registry import find_generator
from train.generators.run import TrainedGenerator, open_generator
from train.pictures import write_picture
from train.quality.compare import compare
from train.quality.networks import FeatureNetwork, feature_network
from train.segmenter import SEGMENTER, SegmenterConfig
from train.segmenter.fit import fit_segmenter

SETS = {"bottle": "mvtec_ad/bottle", "magnetic_tile": "magnetic_tile"}  # below the folder of all sets
OF_SET = {"magnetic_tile": ("foreground=texture",)}
DEFECTS_PER_TYPE, SPLIT_SEED = 10, 0  # the literature's; every row has the same ten
PASTED_AT_ONCE = 10


@dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    data: Path
    runs: Path
    features: Path  # a ResNet18: of the generator's foreground, of the segmenter, of distances
    autoencoder: Path | None  # of a generator that is not trained yet
    config: str  # of the segmenter
    count: int  # images painted, and as many pasted

    @cached_property
    def network(self) -> FeatureNetwork:
        return feature_network(str(self.features))

    def defects(self, dataset: str) -> DefectSet:
        return open_defects(self.data / SETS[dataset], defects_per_type=DEFECTS_PER_TYPE, seed=SPLIT_SEED)

    def generator(self, dataset: str) -> Path:
        """The run folder of AdaBLDM, trained with the `cpu` config unless it is there."""
        out = self.runs / dataset
        if not (out / "checkpoints").exists():
            system = find_generator("adabldm")
            settings = [f"backbone_weights={self.features}", *OF_SET.get(dataset, ())]
            settings += [f"autoencoder_weights={self.autoencoder}"] if self.autoencoder else []
            config: Any = load_config(find_config(system.name, "cpu"), system.schema, settings)
            fit_generator(system, config, self.defects(dataset), out, product=dataset)
        return out

    def painted(self, dataset: str) -> Path:
        """A folder that the command `synthesize` wrote: masks of the ten, turned, scaled and placed."""
        run = self.generator(dataset)
        out = self.runs / f"painted-{dataset}-{self.count}-{tag(run)}"
        words = ["synthesize", run, "--data", self.data / SETS[dataset], "--out", out, "--count", self.count]
        subprocess.run([sys.executable, "-m", "train", *map(str, words), "--seed", "0"], check=True)
        return out

    def pasted(self, dataset: str) -> Path:
        """As many images, of the same categories in turn: the ten cut out, turned, scaled and placed in the same way.

        Made once; synthesis.json is the last of its files.
        """
        run = open_generator(self.generator(dataset))
        out = self.runs / f"pasted-{dataset}-{self.count}-{tag(run.folder)}"
        if not (out / JOB_FILE).exists():
            paste(run, self.defects(dataset), self.count, out)
        return out


def tag(run: Path) -> str:
    """Of which generator something is made."""
    provenance = json.loads((run / "provenance.json").read_text())
    return f"{provenance['config_digest'][:6]}-{open_generator(run).step}"


def paste(run: TrainedGenerator, defects: DefectSet, count: int, out: Path) -> None:
    """Training pairs of AdaBLDM, written as `synthesize` writes: images, masks, what was learned from."""
    config: Any = run.config
    categories, random = run.categories, np.random.default_rng(SPLIT_SEED)
    of_category = {name: [s for s in defects.defective if s.categories == (name,)] for name in categories}
    chosen = [of_category[categories[i % len(categories)]] for i in range(count)]
    samples = [some[i // len(categories) % len(some)] for i, some in enumerate(chosen)]
    normal = [defects.normal[i] for i in np.resize(random.permutation(len(defects.normal)), count)]
    pairs_of = jax.jit(partial(make_pairs, normal_prompt=0, turns=config.turns))
    foreground = jax.jit(lambda weights, images: foreground_of(weights, config, images))
    for start in range(0, count, PASTED_AT_ONCE):
        at = np.resize(np.arange(start, min(start + PASTED_AT_ONCE, count)), PASTED_AT_ONCE)
        images = jnp.asarray(load_images([normal[i].path for i in at], run.preprocessing))
        sources = Sources(
            images,
            foreground(run.weights, images),
            jnp.asarray(load_images([samples[i].path for i in at], run.preprocessing)),
            jnp.asarray(np.stack([_mask(samples[i], run) for i in at])),
            jnp.zeros(len(at), jnp.int32),
        )
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(SPLIT_SEED)))(jnp.asarray(at))
        pairs = pairs_of(sources, keys)
        for place, index in list(enumerate(at))[: count - start]:
            category = samples[index].categories[0]
            mask = np.asarray(pairs.trimap[place]) == DEFECT
            for folder in (out / "test" / category, out / "ground_truth" / category):
                folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / "ground_truth" / category / f"{index:06d}_mask.png"), mask.astype(np.uint8) * 255)
            image = np.rint(np.asarray(pairs.image[place])).astype(np.uint8)
            write_picture(out / "test" / category / f"{index:06d}.png", image)
    write_text(out / SPLIT_FILE, json.dumps(split_json(defects), indent=2))
    write_text(out / JOB_FILE, json.dumps({"copy and paste": count, "turns": asdict(config.turns)}, indent=2))


def _mask(sample: DefectSample, run: TrainedGenerator) -> np.ndarray:
    assert sample.mask is not None
    return load_defect_mask(sample.mask, run.preprocessing)


def about_run(folder: Path) -> dict[str, Any]:
    provenance = json.loads((folder / "provenance.json").read_text())
    run = open_generator(folder)
    return {
        "config_digest": provenance["config_digest"],
        "commit": provenance["commit"],
        "device": provenance["device"],
        "seed": run.config.seed,
        "updates": run.step,
        "of_updates": run.config.epochs * run.config.steps_per_epoch,
        "batch_size": run.config.batch_size,
        "image_size": run.config.image_size,
    }


def segmenter(bench: Bench, dataset: str, arm: str, seed: int) -> dict[str, Any]:
    """Figures on held-out real defects and good test images, of a segmenter of one arm."""
    settings = [f"seed={seed}", f"backbone_weights={bench.features}"]
    config = load_config(find_config(SEGMENTER.name, bench.config), SegmenterConfig, settings)
    synthetic, name = [], "real"
    if arm != "real":
        synthetic = [bench.pasted(dataset) if arm == "copy-paste" else bench.painted(dataset)]
        name = synthetic[0].name
    out = bench.runs / f"segmenter-{bench.config}-{dataset}-{name}-{seed}"
    result = fit_segmenter(config, bench.defects(dataset), out, synthetic=synthetic, resume=out.exists())
    return {
        "arm": arm,
        "seed": seed,
        "config": bench.config,
        "config_digest": config_digest(config),
        **asdict(result),
        "generator": about_run(bench.generator(dataset)) if synthetic else None,
    }


def distance(bench: Bench, dataset: str) -> dict[str, Any]:
    """To held-out real defects: of painted and pasted images, of the few real ones, of normal images as they are."""
    folder = bench.generator(dataset)
    run, defects = open_generator(folder), bench.defects(dataset)
    real = _by_category({name: [s.path for s in _of(defects.held_out, name)] for name in run.categories}, run)
    normal = [sample.path for sample in defects.held_out if sample.is_normal]
    candidates = {
        "painted": _of_folder(bench.painted(dataset), run),
        "pasted": _of_folder(bench.pasted(dataset), run),
        "the few real defects": {name: [s.path for s in _of(defects.defective, name)] for name in run.categories},
        "normal images": dict.fromkeys(run.categories, normal),
    }
    found = {
        what: shortened(compare(real, _by_category(paths, run), bench.network), detailed=what in ("painted", "pasted"))
        for what, paths in candidates.items()
    }
    return {
        "generator": about_run(folder),
        "count": bench.count,
        "frechet_called": bench.network.frechet,
        "kernel_called": bench.network.kernel,
        "weights": bench.network.weights,
        "size": run.config.image_size,
        "to_held_out_defects": found,
    }


def _of(samples: tuple[DefectSample, ...], category: str) -> list[DefectSample]:
    return [sample for sample in samples if sample.categories == (category,)]


def _of_folder(folder: Path, run: TrainedGenerator) -> dict[str, list[Path]]:
    made = open_dataset(folder).test
    return {name: [sample.path for sample in made if sample.label == name] for name in run.categories}


def _by_category(paths: Mapping[str, list[Path]], run: TrainedGenerator) -> dict[str, np.ndarray]:
    return {name: load_images(some, run.preprocessing) for name, some in paths.items()}
