"""Prompts to ids, and weights of the user's files: what is read, and the sentences about what is not."""

import gzip

import numpy as np
import pytest
from drawn_merges import MERGES
from weight_files import write_safetensors

from train.backbones.errors import WeightsError
from train.backbones.matching import shapes_of
from train.generators.adabldm.autoencoder import KLDecoder, KLEncoder, KLSpec
from train.generators.adabldm.autoencoder_layouts import kl_half
from train.generators.adabldm.published import load
from train.generators.adabldm.tokenizer import (
    END,
    START,
    ClipTokenizer,
    HashedWords,
    Labels,
    PromptError,
    read_merges,
)

SPEC = KLSpec(latent_channels=2, width=4, multipliers=(1, 2), residual_blocks=1, groups=2)


class TestClip:
    tokenizer = ClipTokenizer(MERGES, tokens=12)

    def test_words_are_the_longest_pieces_that_the_merges_make(self):
        symbols = {number: symbol for symbol, number in self.tokenizer.vocabulary.items()}
        (row,) = self.tokenizer.ids(["A  BOTTLE's"])
        assert [symbols[n] for n in row[:7]] == [START, "a</w>", "bottl", "e</w>", "'", "s</w>", END]
        assert set(row[6:]) == {self.tokenizer.vocabulary[END]}
        assert row.dtype == np.int32
        assert self.tokenizer.size == len(symbols) == 512 + len(MERGES) + 2

    def test_the_empty_prompt_is_its_markers(self):
        (row,) = self.tokenizer.ids([""])
        assert row[0] == self.tokenizer.vocabulary[START]
        assert set(row[1:]) == {self.tokenizer.vocabulary[END]}

    def test_a_prompt_too_long_is_a_sentence(self):
        self.tokenizer.ids(["1234567890"])  # digits are tokens of their own
        with pytest.raises(
            PromptError, match='The prompt "12345678901" has 11 tokens; at most 10 are read. Shorten it.'
        ):
            self.tokenizer.ids(["a", "12345678901"])

    def test_merges_gzipped_or_not(self, tmp_path):
        text = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in MERGES) + "\n"
        (tmp_path / "merges.txt").write_text(text)
        (tmp_path / "merges.txt.gz").write_bytes(gzip.compress(text.encode()))
        for name in ("merges.txt", "merges.txt.gz"):
            assert read_merges(tmp_path / name) == list(MERGES)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"title\na b\nabc\n", "line 3 is 'abc', not a pair of symbols"),
            (gzip.compress(b"title\na b\n" * 99, mtime=0)[:-20], "can't be read as a list of CLIP's merges"),
            (None, "No such file"),
        ],
        ids=["no pairs", "cut short", "missing"],
    )
    def test_no_such_list(self, tmp_path, data, said):
        path = tmp_path / "merges"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(PromptError, match=said + ".*Bring OpenAI's bpe_simple_vocab_16e6.txt.gz"):
            read_merges(path)


def test_hashed_words_are_the_same_everywhere():
    words = HashedWords(512, 6)
    np.testing.assert_array_equal(words.ids(["a bottle", "Bottle", ""])[:, :3], [[110, 362, 0], [362, 0, 0], [0, 0, 0]])
    with pytest.raises(PromptError, match="has 7 tokens; at most 6 are read"):
        words.ids(["a b c d e f g"])


def test_labels_are_whole_prompts():
    labels = Labels(["bottle, a bottle with a crack", "bottle"])
    np.testing.assert_array_equal(labels.ids(["bottle", "", "bottle, a bottle with a crack"]), [[2], [0], [1]])
    with pytest.raises(PromptError, match='"nut" is not one that this system was trained with. It knows: "bottle, a'):
        labels.ids(["nut"])


class TestWeights:
    """Of the autoencoder, as the others."""

    def file(self, tmp_path, change=lambda state: state):
        generator, state = np.random.default_rng(0), {}
        for network, half in ((KLEncoder(SPEC, rngs=None), "encoder"), (KLDecoder(SPEC, rngs=None), "decoder")):
            leaves = shapes_of(network)
            for key, shape in kl_half(SPEC, half).layouts(leaves)[0].published(leaves).items():
                state[key] = generator.standard_normal(shape).astype(np.float32)
        return write_safetensors(tmp_path / "vae.safetensors", change(state)), state

    def refusal(self, path) -> str:
        with pytest.raises(WeightsError) as refused:
            load(KLEncoder(SPEC, rngs=None), kl_half(SPEC, "encoder"), path)
        return str(refused.value)

    def test_each_half_takes_its_own_of_one_file(self, tmp_path):
        path, state = self.file(tmp_path)
        encoder = load(KLEncoder(SPEC, rngs=None), kl_half(SPEC, "encoder"), path)
        decoder = load(KLDecoder(SPEC, rngs=None), kl_half(SPEC, "decoder"), path)
        np.testing.assert_array_equal(encoder.to_moments.kernel[0, 0].T, state["quant_conv.weight"][..., 0, 0])
        np.testing.assert_array_equal(decoder.from_latent.bias[...], state["post_quant_conv.bias"])
        q = state["encoder.mid_block.attentions.0.to_q.weight"]
        np.testing.assert_array_equal(encoder.middle.attention.attention.q.kernel[...].T, q)

    def test_another_layout_is_named_by_its_first_key(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", {"backbone.stem.weight": np.zeros((2, 2), np.float32)})
        said = self.refusal(path)
        assert (
            f"{path} is not the encoder of Stable Diffusion's autoencoder: its first key is backbone.stem.weight"
            in said
        )
        assert "vae.encoder.conv_in" not in said
        assert "encoder.conv_in.weight (diffusers)" in said
        assert "first_stage_model.encoder.conv_in.weight (original)" in said

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda s: s | {"encoder.conv_in.weight": np.zeros((8, 3, 3, 3), np.float32)},
                "encoder.conv_in.weight is 8 x 3 x 3 x 3 in the file and 4 x 3 x 3 x 3 in the network",
            ),
            (lambda s: {k: v for k, v in s.items() if k != "quant_conv.bias"}, "quant_conv.bias is not in it"),
            (
                lambda s: s | {"encoder.mid_block.resnets.2.conv1.bias": np.zeros(3, np.float32)},
                "encoder.mid_block.resnets.2.conv1.bias is in it, but not in the network",
            ),
            (lambda s: s | {"encoder.conv_in.bias": np.full(4, np.nan, np.float32)}, "conv_in.bias of the encoder"),
        ],
    )
    def test_what_does_not_fit_is_named(self, tmp_path, change, said):
        path, _ = self.file(tmp_path, change)
        assert said in self.refusal(path)
        load(KLDecoder(SPEC, rngs=None), kl_half(SPEC, "decoder"), path)  # the other half is whole
