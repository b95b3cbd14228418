"""AdaBLDM's autoencoders against diffusers' AutoencoderKL and AutoencoderTiny, random weights.

References run in float64 at reduced width; the full size is held by its keys and shapes.
"""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.backbones.matching import shapes_of
from train.generators.adabldm.autoencoder import KLDecoder, KLEncoder, KLSpec
from train.generators.adabldm.autoencoder_layouts import kl_half, tiny_half
from train.generators.adabldm.published import load
from train.generators.adabldm.tiny_autoencoder import TAESD, TinyDecoder, TinyEncoder, TinySpec

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from diffusers.loaders import single_file_utils as theirs  # noqa: E402
from published_checkpoints import (  # noqa: E402
    CHEAP,
    as_original,
    assert_close,
    assert_same_arrays,
    keys_of,
    state_of,
    write,
)
from torch_networks import shaken  # noqa: E402

pytestmark = pytest.mark.parity

SPEC = KLSpec(latent_channels=3, width=8, multipliers=(1, 2), residual_blocks=1, groups=4)
TINY = TinySpec(latent_channels=4, pooled=False, width=8)


def autoencoder(spec: KLSpec):
    levels = len(spec.multipliers)
    return diffusers.AutoencoderKL(
        latent_channels=spec.latent_channels,
        block_out_channels=[spec.width * multiplier for multiplier in spec.multipliers],
        layers_per_block=spec.residual_blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=spec.groups,
    ).eval()


def halves(spec: KLSpec):
    """Without arrays, each with its layouts."""
    return (KLEncoder(spec, rngs=None), kl_half(spec, "encoder")), (
        KLDecoder(spec, rngs=None),
        kl_half(spec, "decoder"),
    )


def tiny_halves(spec: TinySpec):
    encoder, decoder = TinyEncoder(spec, rngs=None), TinyDecoder(spec, rngs=None)
    return (encoder, tiny_half(spec, "encoder")), (decoder, tiny_half(spec, "decoder"))


def both(encoder, decoder, images, latent):
    run = jax.jit(lambda x, z: (encoder(x), decoder(z)), compiler_options=CHEAP)
    return run(jnp.asarray(images), jnp.asarray(latent))


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def channels_first(x: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(x.transpose(0, 3, 1, 2)).double()


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    model = shaken(autoencoder(SPEC), 0)
    return model, write(tmp_path_factory.mktemp("kl") / "vae.safetensors", state_of(model))


def test_latents_and_images_are_diffusers(kl):
    model, path = kl
    images, latent = drawn(0, 2, 16, 8, 3), 3 * drawn(1, 2, 4, 6, 3)
    posterior, decoded = both(*[load(*half, path) for half in halves(SPEC)], images, latent)
    model.double()
    with torch.no_grad():
        expected = model.encode(channels_first(images)).latent_dist
        assert_close(posterior.mean, expected.mean, "mean")
        assert_close(posterior.log_variance, expected.logvar, "log variance")
        assert_close(decoded, model.decode(channels_first(latent)).sample, "image")


def test_files_of_2022_and_original_checkpoints_give_the_same_halves(kl, tmp_path):
    model, path = kl
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    then = {
        re.sub(r"attentions\.0\.(to_\w(?:ut\.0)?)", lambda m: f"attentions.0.{names[m[1]]}", key): value
        for key, value in state_of(model).items()
    }
    keys = {key: shape for half in halves(SPEC) for key, shape in keys_of("original", *half).items()}
    convert = partial(theirs.convert_ldm_vae_checkpoint, config=dict(model.config))
    original = as_original(state_of(model), keys, convert) | {
        "model.diffusion_model.out.0.weight": np.zeros(4, np.float32)
    }
    for number, state in enumerate((then, original)):
        other = write(tmp_path / f"{number}.safetensors", state)
        for half in halves(SPEC):
            assert_same_arrays(load(*half, other), load(*half, path))


def test_full_size_by_key_and_shape():
    """Without a number in memory, in both layouts. The count is that of Stable Diffusion's file."""
    with torch.device("meta"):
        model = autoencoder(KLSpec())
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found: dict = {}
    original: dict = {}
    for network, published in halves(KLSpec()):
        leaves = shapes_of(network)
        found |= published.layouts(leaves)[0].published(leaves)
        original |= keys_of("original", network, published)
    assert found == expected
    assert sum(math.prod(shape) for shape in found.values()) == 83_653_863
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in original.items()}
    converted = theirs.convert_ldm_vae_checkpoint(tensors, config=dict(model.config))
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected


def test_taesd_is_diffusers_in_both_layouts(tmp_path):
    widths = [TINY.width] * 4
    model = shaken(
        diffusers.AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths), 3
    ).eval()
    state = state_of(model)
    path = write(tmp_path / "diffusers.safetensors", state)
    encoder, decoder = (load(*half, path) for half in tiny_halves(TINY))
    images, latent = drawn(4, 2, 16, 24, 3), 5 * drawn(5, 2, 2, 3, 4)
    encoded, decoded = both(encoder, decoder, (images + 1) / 2, latent)
    model.double()
    with torch.no_grad():
        assert_close(encoded, model.encode(channels_first(images)).latents, "latent")
        assert_close(2 * decoded - 1, model.decode(channels_first(latent)).sample, "image")

    def own(half: str, shift: int) -> dict:
        """The authors' keys: places in a sequence that for the decoder starts with the clamp."""
        of_half = {key.removeprefix(f"{half}.layers."): value for key, value in state.items() if half in key}
        return {re.sub(r"^\d+", lambda m: str(int(m[0]) + shift), key): value for key, value in of_half.items()}

    for half, name, shift, ours in zip(
        tiny_halves(TINY), ("encoder", "decoder"), (0, 1), (encoder, decoder), strict=True
    ):
        assert_same_arrays(load(*half, write(tmp_path / f"{name}.safetensors", own(name, shift))), ours)


class PlainBlock(torch.nn.Module):
    """A block of TAEF2, written from its description."""

    def __init__(self, width: int, pooled: bool):
        super().__init__()
        conv, relu = partial(torch.nn.Conv2d, width, width, 3, padding=1), torch.nn.ReLU
        self.conv = torch.nn.Sequential(conv(), relu(), conv(), relu(), conv())
        if pooled:
            wide = 4 * width
            narrow = torch.nn.Conv2d(wide, width, 1, bias=False)
            widen = torch.nn.Conv2d(width, wide, 1, bias=False)
            self.pool = torch.nn.Sequential(widen, torch.nn.GroupNorm(4, wide), relu(), narrow)

    def forward(self, x):
        x = x + self.pool(x) if hasattr(self, "pool") else x
        return torch.relu(self.conv(x) + x)


class Clamp(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


def plain_taef2(width: int, channels: int):
    conv, up = partial(torch.nn.Conv2d, kernel_size=3, padding=1), partial(torch.nn.Upsample, scale_factor=2)
    encoder, decoder = [conv(3, width), PlainBlock(width, False)], [Clamp(), conv(channels, width), torch.nn.ReLU()]
    for level in range(3):
        blocks = [PlainBlock(width, level == 2) for _ in range(3)]
        encoder += [conv(width, width, stride=2, bias=False), *blocks]
        blocks = [PlainBlock(width, level == 0) for _ in range(3)]
        decoder += [*blocks, up(), conv(width, width, bias=False)]
    encoder.append(conv(width, channels))
    decoder += [PlainBlock(width, False), conv(width, 3)]
    return torch.nn.Sequential(*encoder), torch.nn.Sequential(*decoder)


def test_taef2_is_what_it_is_described_as(tmp_path):
    spec = TinySpec(latent_channels=5, pooled=True, width=8)
    plain = [shaken(half, seed) for seed, half in enumerate(plain_taef2(8, 5))]
    paths = [write(tmp_path / f"{seed}.safetensors", state_of(half)) for seed, half in enumerate(plain)]
    images, latent = (drawn(6, 2, 24, 16, 3) + 1) / 2, 5 * drawn(7, 2, 3, 2, 5)
    halves = (load(*half, path) for half, path in zip(tiny_halves(spec), paths, strict=True))
    found = both(*halves, images, latent)
    with torch.no_grad():
        for ours, half, x in zip(found, plain, (images, latent), strict=True):
            assert_close(ours, half.double()(channels_first(x)))


def test_taesd_at_full_size_by_key_and_shape():
    model = diffusers.AutoencoderTiny()
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found: dict = {}
    for network, published in tiny_halves(TAESD):
        found |= keys_of("diffusers", network, published)
    assert found == expected
