"""What a run keeps beside its checkpoints: networks that it does not train, and the few defects' masks.

frozen.safetensors   autoencoder, CLIP's text encoder where prompts are read by it, foreground predictor
defects.npz          masks at model size, by category: sampling turns and places them
merges.txt.gz        of CLIP's tokenizer
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import UInt8

from train.backbones.backbone import abstract, dotted
from train.backbones.errors import WeightsError
from train.backbones.matching import filled
from train.backbones.pretrained import find_weights, load_pretrained, random_weights
from train.config import ConfigError
from train.data.batches import load_images
from train.data.defect_mask import load_defect_mask
from train.data.defects import DefectSample
from train.data.samples import DataError, shown
from train.durable import write_file
from train.generators.adabldm import unet_layouts
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.foreground import Discriminant, fit_foreground
from train.generators.adabldm.imports import Sources, autoencoder_of, empty_autoencoder, find_sources, text_of
from train.generators.adabldm.latents import StandardisedAutoencoder, standardised
from train.generators.adabldm.prompts import reader_of
from train.generators.adabldm.published import load
from train.generators.adabldm.text import ClipSpec, ClipText
from train.generators.adabldm.tokenizer import PromptError
from train.generators.adabldm.unet import Denoiser
from train.generators.kept import Kept
from train.restore import RunError
from train.run import preprocessing_of

NETWORKS, DEFECTS, MERGES = "frozen.safetensors", "defects.npz", "merges.txt.gz"
STARTED_FROM_FILE = "started_from_file"  # beside the networks' arrays

M = TypeVar("M", bound=nnx.Module)


class Frozen(NamedTuple):
    autoencoder: Any
    text: ClipText | None  # None: prompts have a table, which is trained
    backbone: nnx.Module | None  # of the foreground predictor; None for a texture
    discriminant: Discriminant | None
    masks: dict[str, UInt8[np.ndarray, "_m s s"]]  # of each category, 1 inside, in the order of the samples
    merges: Path | None  # of CLIP's tokenizer
    starts_from_file: bool  # the denoiser, which is trained and kept in checkpoints only


def make(config: AdaBLDMConfig, normal: Sequence[DefectSample], defective: Sequence[DefectSample]) -> Frozen:
    """Of the user's files.

    Raises:
        ConfigError, WeightsError: a file is missing or is not what it should be; a prompt is too long.
        DataError: a defect has no mask, or two categories; the part can't be told from its background.
    """
    masks = masks_by_category(config, defective)
    merges = _checked_merges(config)
    sources = _sources(config)
    text, autoencoder, backbone = _all_or_what_is_missing(
        lambda: text_of(config.networks, sources) if isinstance(config.networks.text, ClipSpec) else None,
        lambda: _autoencoder(config, sources),
        lambda: _backbone(config),
    )
    images = load_images([sample.path for sample in normal], preprocessing_of(config))
    if config.standardise_latents:
        autoencoder = standardised(autoencoder, images, config.seed)
    discriminant = None
    if (seen := config.seen) is not None and backbone is not None:
        names = [shown(sample.path) for sample in normal]
        discriminant, _ = fit_foreground(seen, backbone, images, names, config.seed)
    if sources.denoiser is not None:
        published_denoiser(config)  # refused before anything is written
    return Frozen(autoencoder, text, backbone, discriminant, masks, merges, sources.denoiser is not None)


def _all_or_what_is_missing(*makes: Callable[[], Any]) -> list[Any]:
    """What each gives; WeightsError with a line of every file that is missing or wrong."""
    found, problems = [], []
    for make_one in makes:
        try:
            found.append(make_one())
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError("\n".join(problems))
    return found


def published_denoiser(config: AdaBLDMConfig) -> Denoiser:
    """Of the user's file.

    Raises:
        RunError: none is named.
        WeightsError: it is not one of this size.
    """
    sources = find_sources(config.weights) if config.weights else Sources()
    if sources.denoiser is None:
        raise RunError(
            "This run started from a denoiser of the user's and was stopped before its first checkpoint. "
            "Name the file again: --set weights=FILE."
        )
    unet = config.networks.unet
    return load(Denoiser(unet, rngs=None), unet_layouts.denoiser(unet), sources.denoiser)


def files(kept: Frozen, config: AdaBLDMConfig) -> Mapping[str, Callable[[Path], None]]:
    writers = {NETWORKS: partial(_write_networks, kept), DEFECTS: partial(_write_masks, kept)}
    return writers if kept.merges is None else writers | {MERGES: partial(_write_merges, kept)}


def read(folder: Path, config: AdaBLDMConfig) -> Frozen:
    arrays = safetensors.numpy.load((folder / NETWORKS).read_bytes())
    size, seen = config.networks, config.seen
    text = _filled(ClipText(size.text, rngs=None), arrays, "text") if isinstance(size.text, ClipSpec) else None
    backbone = discriminant = None
    if seen is not None:
        backbone = _filled(abstract(seen.backbone, seen.input_side), arrays, "backbone")
        discriminant = Discriminant(*(jnp.asarray(arrays[f"discriminant.{name}"]) for name in Discriminant._fields))
    with np.load(folder / DEFECTS, allow_pickle=False) as masks:
        of_category = {name: masks[f"category_{number}"] for number, name in enumerate(config.categories)}
    merges = folder / MERGES if (folder / MERGES).exists() else None
    autoencoder = _filled(_empty_autoencoder(config), arrays, "autoencoder")
    return Frozen(autoencoder, text, backbone, discriminant, of_category, merges, STARTED_FROM_FILE in arrays)


KEPT = Kept(make, files, read)


def masks_by_category(
    config: AdaBLDMConfig, defective: Sequence[DefectSample]
) -> dict[str, UInt8[np.ndarray, "_m s s"]]:
    """Of every category, in the order of its samples.

    Raises:
        DataError: there are more images than masks, a mask is empty, or an image shows several categories.
    """
    without = [sample for sample in defective if sample.mask is None]
    if without:
        raise DataError(
            f"There are {len(defective)} defective images to learn from, but {len(defective) - len(without)} masks: "
            f"{shown(without[0].path)} has none. Draw one for each (docs/data.md), or take the image away."
        )
    preprocessing = preprocessing_of(config)
    found: dict[str, list[np.ndarray]] = {name: [] for name in config.categories}
    for sample in defective:
        assert sample.mask is not None
        if len(sample.categories) != 1:
            raise DataError(
                f"{shown(sample.path)} shows {' and '.join(sample.categories)}, and its mask does not say which is "
                "where. AdaBLDM learns from images of one category: leave it out."
            )
        region = load_defect_mask(sample.mask, preprocessing)
        if not region.any():
            raise DataError(f"{shown(sample.mask)} is empty, so there is no defect to learn. Draw it, or leave it out.")
        found[sample.categories[0]].append(region.astype(np.uint8))
    return {name: np.stack(masks) for name, masks in found.items()}


def _checked_merges(config: AdaBLDMConfig) -> Path | None:
    try:
        reader_of(config.networks.text, config.prompts, config.merges).ids(
            ["", *config.prompts, config.negative_prompt]
        )
    except PromptError as error:
        raise ConfigError(str(error)) from None
    return config.merges if config.text == "clip" else None


def _sources(config: AdaBLDMConfig) -> Sources:
    sources = find_sources(config.weights) if config.weights else Sources()
    if config.autoencoder_weights is None:
        return sources
    own = find_sources(config.autoencoder_weights)
    return Sources(own.encoder, own.decoder, sources.text, sources.denoiser, sources.trimap_encoder)


def _autoencoder(config: AdaBLDMConfig, sources: Sources) -> Any:
    """Published; of `tiny` there is none, and without a file it is drawn from the seed."""
    size = config.networks
    if sources.encoder is None and sources.decoder is None:
        if config.size == "tiny":
            return empty_autoencoder(size, rngs=nnx.Rngs(config.seed))
        bring = {
            "small": "TAEF2 (a folder with taef2_encoder.safetensors and taef2_decoder.safetensors)",
            "sd15": "Stable Diffusion 1.5 (a checkpoint, or a folder of diffusers)",
        }[config.size]
        raise WeightsError(
            f"Size {config.size} works on the latents of a published autoencoder, which is not trained here, and none "
            f"is named. Set autoencoder_weights to that of {bring}."
        )
    return autoencoder_of(size, sources)


def _empty_autoencoder(config: AdaBLDMConfig) -> Any:
    autoencoder = empty_autoencoder(config.networks)
    if not config.standardise_latents:
        return autoencoder
    numbers = np.zeros(config.networks.autoencoder.latent_channels, np.float32)
    return StandardisedAutoencoder(autoencoder, numbers, numbers)


def _backbone(config: AdaBLDMConfig) -> nnx.Module | None:
    if (seen := config.seen) is None:
        return None
    if not seen.backbone.pretrained:
        return random_weights(seen.backbone, seen.input_side, config.seed)
    path = find_weights(seen.backbone, config.backbone_weights)
    return load_pretrained(seen.backbone, path, seen.input_side)


def _write_networks(kept: Frozen, path: Path) -> None:
    modules = {"autoencoder": kept.autoencoder, "text": kept.text, "backbone": kept.backbone}
    arrays = {
        f"{name}.{dotted(place)}": np.asarray(leaf[...])
        for name, module in modules.items()
        if module is not None
        for place, leaf in nnx.to_flat_state(nnx.state(module))
    }
    if kept.discriminant is not None:
        arrays |= {f"discriminant.{name}": np.asarray(value) for name, value in kept.discriminant._asdict().items()}
    if kept.starts_from_file:
        arrays[STARTED_FROM_FILE] = np.ones(1, np.float32)
    data = safetensors.numpy.save(arrays)
    write_file(path, lambda file: file.write(data))


def _write_masks(kept: Frozen, path: Path) -> None:
    arrays = {f"category_{number}": masks for number, masks in enumerate(kept.masks.values())}
    write_file(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _write_merges(kept: Frozen, path: Path) -> None:
    data = kept.merges.read_bytes() if kept.merges else b""
    packed = data if data[:2] == b"\x1f\x8b" else gzip.compress(data, mtime=0)
    write_file(path, lambda file: file.write(packed))


def _filled(network: M, arrays: Mapping[str, np.ndarray], name: str) -> M:
    start = f"{name}."
    return filled(network, {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})


def frozen_count(config: AdaBLDMConfig) -> int:
    """Numbers in all networks that are kept; nothing is drawn."""
    size, seen = config.networks, config.seen
    modules: list[Any] = [_empty_autoencoder(config)]
    modules += [ClipText(size.text, rngs=None)] if isinstance(size.text, ClipSpec) else []
    modules += [abstract(seen.backbone, seen.input_side)] if seen else []
    return sum(leaf.size for leaf in jax.tree.leaves(modules))
