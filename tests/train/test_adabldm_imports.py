"""The user's files by their published names, and the networks put together from them; all files are drawn."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from weight_files import write_safetensors

from train.backbones.errors import WeightsError
from train.backbones.matching import shapes_of
from train.generators.adabldm import autoencoder_layouts, text_layouts, unet_layouts
from train.generators.adabldm.imports import Sources, assembled, find_sources
from train.generators.adabldm.model import AdaBLDM
from train.generators.adabldm.sizes import TINY
from train.generators.adabldm.text import ClipSpec
from train.generators.adabldm.tiny_autoencoder import TinySpec
from train.generators.adabldm.trimap import TrimapSpec

SIZE = replace(TINY, text=ClipSpec(vocabulary=20, tokens=5, width=64, heads=2, layers=1))
WITHOUT_CLIP = replace(TINY, image=32, autoencoder=TinySpec(4, pooled=False, width=4), trimap=TrimapSpec((2, 2, 2, 2)))


def drawn(layout_name: str, network, published) -> dict[str, np.ndarray]:
    leaves = shapes_of(network)
    layout = next(layout for layout in published.layouts(leaves) if layout.name == layout_name)
    prefix = "".join(layout.prefixes[-1:]) if layout_name != "TAESD" else ""
    generator = np.random.default_rng(len(leaves))
    return {
        prefix + key: generator.standard_normal(shape).astype(np.float32)
        for key, shape in layout.published(leaves).items()
    }


def parts(size):
    shapes = AdaBLDM(size, rngs=None)
    return {
        "vae": [
            (shapes.autoencoder.encoder, autoencoder_layouts.kl_half(size.autoencoder, "encoder")),
            (shapes.autoencoder.decoder, autoencoder_layouts.kl_half(size.autoencoder, "decoder")),
        ],
        "text_encoder": [(shapes.text, text_layouts.clip_text(size.text))],
        "unet": [(shapes.denoiser, unet_layouts.denoiser(size.unet))],
    }


def test_one_checkpoint_fills_all_and_the_trimap_encoder_starts_from_the_denoiser(tmp_path):
    state = {}
    for folder, networks in parts(SIZE).items():
        for network, published in networks:
            state |= drawn("transformers" if folder == "text_encoder" else "original", network, published)
    path = write_safetensors(tmp_path / "checkpoint.safetensors", state)
    model = assembled(SIZE, find_sources(path), rngs=nnx.Rngs(0))
    theirs = state["model.diffusion_model.input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.denoiser.encoder.conv_in.kernel[...], theirs)
    np.testing.assert_array_equal(model.trimap_encoder.encoder.conv_in.kernel[...], theirs)
    assert not np.any(model.trimap_encoder.zero_middle.kernel[...])
    table = state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"]
    np.testing.assert_array_equal(model.text.table[...], table)
    last = state["first_stage_model.decoder.conv_out.bias"]
    np.testing.assert_array_equal(model.autoencoder.decoder.conv_out.bias[...], last)


def test_a_folder_of_diffusers(tmp_path):
    for folder, networks in parts(SIZE).items():
        state = {}
        for network, published in networks:
            state |= drawn("transformers" if folder == "text_encoder" else "diffusers", network, published)
        (tmp_path / folder).mkdir()
        name = "model.fp16" if folder == "text_encoder" else "diffusion_pytorch_model"
        write_safetensors(tmp_path / folder / f"{name}.safetensors", state)
    sources = find_sources(tmp_path)
    assert sources.text == tmp_path / "text_encoder" / "model.fp16.safetensors"
    assert sources.trimap_encoder is None
    model = assembled(SIZE, sources, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(model.denoiser.conv_out.bias[...], state["conv_out.bias"])


def test_a_tiny_autoencoder_and_all_else_drawn(tmp_path):
    shapes = AdaBLDM(WITHOUT_CLIP, rngs=None).autoencoder
    for half, network in (("encoder", shapes.encoder), ("decoder", shapes.decoder)):
        state = drawn("TAESD", network, autoencoder_layouts.tiny_half(WITHOUT_CLIP.autoencoder, half))
        write_safetensors(tmp_path / f"tiny_{half}.safetensors", state)
    model = assembled(WITHOUT_CLIP, find_sources(tmp_path), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(model.autoencoder.decoder.conv_out.bias[...], state["19.bias"])
    assert np.std(model.text(jnp.arange(WITHOUT_CLIP.text.tokens)[None])) == pytest.approx(
        1.0, rel=0.1
    )  # as CLIP's last norm
    np.testing.assert_array_equal(
        model.trimap_encoder.encoder.time_in.kernel[...], model.denoiser.encoder.time_in.kernel[...]
    )
    write_safetensors(tmp_path / "other_encoder.safetensors", state)
    with pytest.raises(WeightsError, match="holds 2 encoders and 1 decoders. Leave one of each"):
        find_sources(tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(WeightsError, match="holds no weights known by their names. Name a checkpoint of Stable"):
        find_sources(tmp_path)
    with pytest.raises(WeightsError, match="nowhere does not exist. Name a file of weights, or a folder of them"):
        find_sources(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="There are no weights of the encoder of Stable Diffusion's autoencoder"):
        assembled(SIZE, Sources(), rngs=nnx.Rngs(0))
