"""AdaBLDM's CLIP text encoder and tokenizer against transformers: random weights, drawn merges."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_merges import MERGES
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from train.backbones.matching import shapes_of
from train.generators.adabldm.published import load
from train.generators.adabldm.text import ClipSpec, ClipText
from train.generators.adabldm.text_layouts import clip_text
from train.generators.adabldm.tokenizer import END, START, ClipTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from published_checkpoints import assert_close, assert_same_arrays, state_of, write  # noqa: E402
from torch_networks import shaken  # noqa: E402

pytestmark = pytest.mark.parity

SPEC = ClipSpec(vocabulary=40, tokens=7, width=12, heads=3, layers=2)
ORIGINAL = "cond_stage_model.transformer.text_model."


def encoder(spec: ClipSpec):
    config = transformers.CLIPTextConfig(
        vocab_size=spec.vocabulary,
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.tokens,
    )
    return transformers.CLIPTextModel(config).eval()


def plain(state: dict) -> dict:
    """Keys as published since 2021; later versions of the library leave the first name out in memory."""
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def test_tokens_are_transformers_in_every_layout(tmp_path):
    model = shaken(encoder(SPEC), 0)
    state = {key: value for key, value in plain(state_of(model)).items() if "position_ids" not in key}
    ours = load(ClipText(SPEC, rngs=None), clip_text(SPEC), write(tmp_path / "hub.safetensors", state))
    original = {ORIGINAL + key.removeprefix("text_model."): value for key, value in state.items()}
    original |= {"model.diffusion_model.out.0.bias": np.zeros(3, np.float32)}
    other = write(tmp_path / "original.safetensors", original)
    assert_same_arrays(load(ClipText(SPEC, rngs=None), clip_text(SPEC), other), ours)
    ids = np.random.default_rng(0).integers(0, SPEC.vocabulary, (3, SPEC.tokens))
    found = nnx.jit(lambda tower, ids: tower(ids))(ours, jnp.asarray(ids, jnp.int32))
    with torch.no_grad():
        assert_close(found, model.double()(torch.from_numpy(ids)).last_hidden_state)


def test_full_size_by_key_and_shape():
    """The count is that of ViT-L/14's text encoder."""
    spec = ClipSpec()
    with torch.device("meta"):
        state = encoder(spec).state_dict()
    expected = {key: tuple(value.shape) for key, value in plain(state).items() if "position_ids" not in key}
    leaves = shapes_of(ClipText(spec, rngs=None))
    found = clip_text(spec).layouts(leaves)[0].published(leaves)
    assert {f"text_model.{key}": shape for key, shape in found.items()} == expected
    assert sum(math.prod(shape) for shape in found.values()) == 123_060_480


OURS = ClipTokenizer(MERGES, tokens=400)


@pytest.fixture(scope="module")
def library():
    """transformers' tokenizer of the same merges."""
    return transformers.CLIPTokenizer(vocab=OURS.vocabulary, merges=list(MERGES))


@pytest.mark.parametrize(
    "text",
    [
        "bottle, a bottle with a broken_large",
        "A  Metal\tnut's   scratch… isn't 12.5mm²",
        "",
        " ",
        "Ünïcödé ½ ⅷ 漢字 ☃️ naïve é",
        f"a{START}b {END}",
        "it'S'll 'dog",
    ],
)
def test_ids_are_transformers(library, text):
    assert OURS.encode(text) == library(text, add_special_tokens=False).input_ids


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=40))
def test_ids_of_any_text_are_transformers(library, text):
    assert OURS.encode(text) == library(text, add_special_tokens=False).input_ids
