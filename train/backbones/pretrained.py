"""Published weights: found, read into a frozen network, kept with a run.

A file is taken only if every tensor that the taps need is there, in its shape, and nothing else but what the layout
says the taps don't need: a file that almost fits is another network.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Array, Float, UInt8

from train.backbones.backbone import Backbone, HubFile, abstract, dotted, leaf_shapes
from train.backbones.errors import WeightsError
from train.backbones.layout import Layout, Shape
from train.backbones.matching import closest, converted, described, filled, misfit, not_finite
from train.backbones.registry import BACKBONES
from train.backbones.weight_file import WeightFile, open_weights
from train.durable import write_file

__all__ = [
    "WeightsError",
    "cache_folder",
    "features",
    "find_weights",
    "identified",
    "load_pretrained",
    "random_weights",
    "restore_backbone",
    "save_backbone",
]

FORMAT = "faultline backbone 1"
SUFFIXES = (".safetensors", ".pth")
NAMED_BY = "--set backbone_weights=FILE"


def cache_folder() -> Path:
    """Where files that a user brings are looked for: FAULTLINE_CACHE, else faultline in the user's cache folder."""
    if given := os.environ.get("FAULTLINE_CACHE"):
        return Path(given) / "backbones"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faultline" / "backbones"


def find_weights(backbone: Backbone, file: Path | None, *, named_by: str = NAMED_BY) -> Path:
    """The user's file; else NAME.safetensors or NAME.pth in the cache folder; else the hub's file, fetched once.

    `named_by` is how a user names a file, for the sentence.

    Raises:
        WeightsError: there is none; the text says which file to bring and where to put it.
    """
    if not backbone.pretrained:
        raise WeightsError(f"{backbone.name} has no published weights; its weights are drawn from the seed.")
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"{file} is not there. {_bring(backbone, named_by)}")
        return file
    for suffix in SUFFIXES:
        if (cached := cache_folder() / f"{backbone.name}{suffix}").is_file():
            return cached
    if backbone.hub is None:
        raise WeightsError(f"There are no weights of {backbone.name} here. {_bring(backbone, named_by)}")
    try:
        return _from_hub(backbone.hub)
    except Exception as error:  # offline, refused, renamed, not installed: the remedy is the same
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WeightsError(
            f"There are no weights of {backbone.name} here, and the Hugging Face hub gave none ({reason}). "
            f"{_bring(backbone, named_by)}"
        ) from error


def _from_hub(file: HubFile) -> Path:
    """The hub's own cache first, without a look at the network; then one question, so that no answer is soon known."""
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(file.repository, file.name)
    if isinstance(cached, str):
        return Path(cached)
    huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(file.repository, file.name), timeout=10)
    return Path(huggingface_hub.hf_hub_download(file.repository, file.name))


def load_pretrained(backbone: Backbone, path: Path, image_size: int) -> nnx.Module:
    """The network with the weights of a published file, frozen, for images of one size.

    Raises:
        WeightsError: the file is of another network, incomplete, damaged or unsafe, or the image size doesn't fit.
    """
    _check_size(backbone, image_size)
    if backbone.only_published_size and image_size != backbone.image_size:
        raise WeightsError(
            f"image_size is {image_size}, but {backbone.name} was published for {backbone.image_size} and its position "
            f"embedding fits no other size. Set image_size={backbone.image_size}."
        )
    file = open_weights(path)
    leaves = leaf_shapes(backbone, image_size)
    layout = _matching_layout(backbone, file, leaves)
    arrays = converted(layout, file, leaves)
    if (leaf := not_finite(arrays)) is not None:
        raise WeightsError(f"{path}: {leaf} of {backbone.name} has values that are not finite. {_bring(backbone)}")
    return filled(abstract(backbone, image_size), arrays)


def random_weights(backbone: Backbone, image_size: int, seed: int) -> nnx.Module:
    """The network with weights drawn from the seed: for `mini`, tests and trials."""
    _check_size(backbone, image_size)
    return backbone.build(image_size, nnx.Rngs(seed))


def save_backbone(path: Path, module: nnx.Module) -> None:
    """Every array under its dotted path, as safetensors, whole or not at all."""
    arrays = {dotted(p): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(nnx.state(module))}
    data = safetensors.numpy.save(arrays, metadata={"format": FORMAT})
    write_file(path, lambda file: file.write(data))


def restore_backbone(backbone: Backbone, path: Path, image_size: int) -> nnx.Module:
    """What `save_backbone` wrote.

    Raises:
        WeightsError: it is damaged, or of another network or image size.
    """
    _check_size(backbone, image_size)
    file = open_weights(path)
    leaves = leaf_shapes(backbone, image_size)
    if file.metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} is not a backbone of a run. Name the file that `train fit` wrote, or train anew.")
    if file.shapes != leaves:
        wrong = sorted(set(file.shapes.items()) ^ set(leaves.items()))[0][0]
        raise WeightsError(
            f"{path} does not hold {backbone.name} for image_size {image_size}: {wrong} is "
            f"{described(file.shapes.get(wrong))} there and {described(leaves.get(wrong))} in {backbone.name}. "
            "Give the backbone and image_size of the run that wrote it."
        )
    return filled(abstract(backbone, image_size), {key: file.read(key) for key in leaves})


def features(
    module: nnx.Module, images: UInt8[Array, "n h w 3"] | Float[Array, "n h w 3"], backbone: Backbone
) -> tuple[Float[Array, "n _h _w _c"], ...]:
    """One feature map per tap, of grey levels 0 to 255. Pure and traceable, with any batch size."""
    mean, std = (jnp.array(v, jnp.float32) for v in (backbone.normalisation.mean, backbone.normalisation.std))
    network = cast(Callable[[Array], tuple[Array, ...]], module)
    return network((images.astype(jnp.float32) / 255 - mean) / std)


def _check_size(backbone: Backbone, image_size: int) -> None:
    step = backbone.size_multiple
    if image_size < step or image_size % step:
        near = max(step, round(image_size / step) * step)
        raise WeightsError(
            f"image_size is {image_size}, but {backbone.name} needs a multiple of {step}. Set image_size={near}."
        )


def _matching_layout(backbone: Backbone, file: WeightFile, leaves: Mapping[str, Shape]) -> Layout:
    """The layout that the file is in.

    Raises:
        WeightsError: it fits none.
    """
    if not backbone.layouts:
        raise WeightsError(f"{backbone.name} has no published weights; its weights are drawn from the seed.")

    layout = closest(backbone.layouts, file, leaves)
    if problem := misfit(layout, file, layout.published(leaves)):
        other = identified(file)
        if other is not None and other.name != backbone.name:
            raise WeightsError(
                f"{file.path} looks like {other.name}, not {backbone.name}. Set backbone={other.name}, or bring the "
                f"right file. {_bring(backbone)}"
            )
        raise WeightsError(f"{file.path} does not fit {backbone.name}: {problem}. {_bring(backbone)}")
    return layout


def identified(file: WeightFile) -> Backbone | None:
    """The backbone whose published file this could be."""
    for backbone in BACKBONES.values():
        for layout in backbone.layouts:
            if not misfit(layout, file, layout.published(backbone.published_leaves)):
                return backbone
    return None


def _bring(backbone: Backbone, named_by: str = NAMED_BY) -> str:
    place = cache_folder() / f"{backbone.name}.safetensors"
    there = f"put it at {place} or name it with {named_by}"
    if backbone.hub is None:
        return f"Bring a file of its published weights and {there}."
    return f"Bring {backbone.hub.name} of {backbone.hub.repository} on the Hugging Face hub: {there}."
