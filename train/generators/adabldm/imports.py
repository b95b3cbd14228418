"""The user's files of weights, found by the names that they are published under, and the networks made of them.

A checkpoint of Stable Diffusion is one file; diffusers has a folder of folders; the TAESD family has a file per half.
What is not in the files is drawn: a denoiser to be trained from scratch, the tables of prompts, the trimap encoder.
"""

from dataclasses import dataclass
from pathlib import Path

from flax import nnx

from train.backbones.errors import WeightsError
from train.generators.adabldm import autoencoder_layouts, text_layouts, unet_layouts
from train.generators.adabldm.autoencoder import KLAutoencoder, KLSpec
from train.generators.adabldm.layers import Draw
from train.generators.adabldm.model import AdaBLDM, text_tower
from train.generators.adabldm.published import Published, load
from train.generators.adabldm.sizes import Size
from train.generators.adabldm.text import ClipSpec, ClipText
from train.generators.adabldm.tiny_autoencoder import TinyAutoencoder
from train.generators.adabldm.trimap import TrimapEncoder
from train.generators.adabldm.unet import Denoiser

# Of diffusers' files in the order in which they are looked for: whole numbers before halves of them.
SAFETENSORS = ("diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16")


@dataclass(frozen=True)
class Sources:
    """Where each network's weights are; None: they are drawn, or taken from the denoiser."""

    encoder: Path | None = None  # of the autoencoder
    decoder: Path | None = None
    text: Path | None = None
    denoiser: Path | None = None
    trimap_encoder: Path | None = None


def find_sources(path: Path) -> Sources:
    """Of a file, which then must hold all networks but the trimap encoder, or of a folder.

    Raises:
        WeightsError: there is nothing there that is known by its name.
    """
    if path.is_file():
        return Sources(path, path, path, path)
    if not path.is_dir():
        raise WeightsError(f"{path} does not exist. Name a file of weights, or a folder of them.")
    encoders, decoders = (sorted(path.glob(f"*_{half}.safetensors")) for half in ("encoder", "decoder"))
    vae, text, unet, control = (_in_folder(path / name) for name in ("vae", "text_encoder", "unet", "controlnet"))
    if len(encoders) > 1 or len(decoders) > 1:
        raise WeightsError(f"{path} holds {len(encoders)} encoders and {len(decoders)} decoders. Leave one of each.")
    halves = (encoders[0] if encoders else vae, decoders[0] if decoders else vae)
    found = Sources(*halves, text, unet, control)
    if found == Sources():
        raise WeightsError(
            f"{path} holds no weights known by their names. Name a checkpoint of Stable Diffusion, a folder of "
            "diffusers (unet/, vae/, text_encoder/), or one of the TAESD family (NAME_encoder.safetensors, "
            "NAME_decoder.safetensors)."
        )
    return found


def assembled(size: Size, sources: Sources, *, labels: int = 0, rngs: nnx.Rngs) -> AdaBLDM:
    """The networks of a size, from files where there are some; a trimap encoder without one starts from the denoiser.

    Raises:
        WeightsError: a file is missing that this size can't do without, or does not fit it.
    """
    model = AdaBLDM(size, labels=labels, rngs=None)
    model.autoencoder = autoencoder_of(size, sources)
    clip = isinstance(size.text, ClipSpec)
    model.text = text_of(size, sources) if clip else text_tower(size.text, labels, rngs=rngs)
    if sources.denoiser is not None:
        model.denoiser = load(model.denoiser, unet_layouts.denoiser(size.unet), sources.denoiser)
    else:
        model.denoiser = Denoiser(size.unet, rngs=rngs)
    if sources.trimap_encoder is not None:
        published = unet_layouts.trimap_encoder(size.unet, size.trimap)
        model.trimap_encoder = load(model.trimap_encoder, published, sources.trimap_encoder)
    else:
        model.trimap_encoder = TrimapEncoder(size.unet, size.trimap, rngs=rngs)
        model.trimap_encoder.start_from(model.denoiser)
    return model


def empty_autoencoder(size: Size, rngs: Draw = None) -> KLAutoencoder | TinyAutoencoder:
    """Of shapes, or drawn."""
    spec = size.autoencoder
    return KLAutoencoder(spec, rngs=rngs) if isinstance(spec, KLSpec) else TinyAutoencoder(spec, rngs=rngs)


def autoencoder_of(size: Size, sources: Sources) -> KLAutoencoder | TinyAutoencoder:
    """
    Raises:
        WeightsError: a half is missing, or a file does not fit.
    """
    autoencoder, (encoder, decoder) = empty_autoencoder(size), _halves(size)
    if sources.encoder is None or sources.decoder is None:
        missing = encoder if sources.encoder is None else decoder
        raise WeightsError(f"There are no weights of {missing.name}. It is not trained here: bring its file.")
    autoencoder.encoder = load(autoencoder.encoder, encoder, sources.encoder)
    autoencoder.decoder = load(autoencoder.decoder, decoder, sources.decoder)
    return autoencoder


def text_of(size: Size, sources: Sources) -> ClipText:
    """
    Raises:
        WeightsError: there is no file of it, or it does not fit.
    """
    assert isinstance(size.text, ClipSpec)
    if sources.text is None:
        raise WeightsError("There are no weights of CLIP's text encoder. It is not trained here: bring its file.")
    return load(ClipText(size.text, rngs=None), text_layouts.clip_text(size.text), sources.text)


def _halves(size: Size) -> tuple[Published, Published]:
    if isinstance(size.autoencoder, KLSpec):
        kl = size.autoencoder
        return autoencoder_layouts.kl_half(kl, "encoder"), autoencoder_layouts.kl_half(kl, "decoder")
    tiny = size.autoencoder
    return autoencoder_layouts.tiny_half(tiny, "encoder"), autoencoder_layouts.tiny_half(tiny, "decoder")


def _in_folder(folder: Path) -> Path | None:
    return next((path for name in SAFETENSORS if (path := folder / f"{name}.safetensors").is_file()), None)
