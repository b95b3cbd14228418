"""AdaBLDM's denoiser and trimap encoder against diffusers' UNet2DConditionModel and ControlNetModel, random weights.

References run in float64 at reduced width; the full size is held by its keys and shapes.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.backbones.matching import shapes_of
from train.generators.adabldm import unet_layouts
from train.generators.adabldm.noise_schedule import ddim, ddim_step, noise_schedule, noised
from train.generators.adabldm.published import Published, load
from train.generators.adabldm.trimap import TrimapEncoder, TrimapSpec
from train.generators.adabldm.unet import Denoiser, UNetSpec

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

SPEC = UNetSpec(
    latent_channels=4,
    width=16,
    multipliers=(1, 2),
    residual_blocks=1,
    transformers=(True, False),
    heads=2,
    context=12,
    groups=4,
)
TRIMAP = TrimapSpec(widths=(4, 6, 8, 10))
FULL, FULL_TRIMAP = UNetSpec(), TrimapSpec()


def settings(spec: UNetSpec) -> dict:
    return {
        "in_channels": spec.latent_channels,
        "block_out_channels": spec.level_widths,
        "layers_per_block": spec.residual_blocks,
        "down_block_types": [f"{'CrossAttn' if with_ else ''}DownBlock2D" for with_ in spec.transformers],
        "cross_attention_dim": spec.context,
        "attention_head_dim": spec.heads,  # their name for the number of heads
        "norm_num_groups": spec.groups,
    }


def unet(spec: UNetSpec):
    up = [f"{'CrossAttn' if with_ else ''}UpBlock2D" for with_ in spec.transformers[::-1]]
    more = {"out_channels": spec.latent_channels, "up_block_types": up, "sample_size": 8}
    return diffusers.UNet2DConditionModel(**settings(spec), **more).eval()


def controlnet(spec: UNetSpec, trimap: TrimapSpec):
    return diffusers.ControlNetModel(**settings(spec), conditioning_embedding_out_channels=trimap.widths).eval()


def denoiser() -> tuple[Denoiser, Published]:
    """Without arrays, and its layouts."""
    return Denoiser(SPEC, rngs=None), unet_layouts.denoiser(SPEC)


def trimap_encoder() -> tuple[TrimapEncoder, Published]:
    return TrimapEncoder(SPEC, TRIMAP, rngs=None), unet_layouts.trimap_encoder(SPEC, TRIMAP)


@pytest.fixture(scope="module")
def pair():
    return shaken(unet(SPEC), 0), shaken(controlnet(SPEC, TRIMAP), 1)


@pytest.fixture(scope="module")
def files(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers")
    return [write(folder / f"{number}.safetensors", state_of(model)) for number, model in enumerate(pair)]


def test_noise_and_control_are_diffusers(pair, files):
    epsilon, tri = load(*denoiser(), files[0]), load(*trimap_encoder(), files[1])
    generator = np.random.default_rng(0)
    latent = generator.standard_normal((2, 8, 8, 4)).astype(np.float32)
    prompt, empty = generator.standard_normal((2, 2, 5, 12)).astype(np.float32)
    trimap = generator.choice([0.0, 0.5, 1.0], (2, 64, 64)).astype(np.float32)
    step = np.array([981, 3], np.int32)

    @partial(jax.jit, compiler_options=CHEAP)
    def ours(latent, trimap, step, prompt, empty):
        control = tri(latent, trimap, step, empty)
        return epsilon(latent, step, prompt, control), control

    noise, control = ours(*map(jnp.asarray, (latent, trimap, step, prompt, empty)))
    first, second = (model.double() for model in pair)
    z, t = torch.from_numpy(latent.transpose(0, 3, 1, 2)).double(), torch.from_numpy(step)
    y, nothing = (torch.from_numpy(context).double() for context in (prompt, empty))
    picture = torch.from_numpy(trimap)[:, None].repeat(1, 3, 1, 1).double()
    with torch.no_grad():
        down, middle = second(z, t, encoder_hidden_states=nothing, controlnet_cond=picture, return_dict=False)
        both = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        assert_close(noise, first(z, t, encoder_hidden_states=y, **both).sample, "noise")
    assert len(down) == len(control.skips) == len(SPEC.skip_widths)
    for number, (a, b) in enumerate(zip(control.skips, down, strict=True)):
        assert_close(a, b, f"skip {number}")
    assert_close(control.middle, middle, "middle")


def test_the_original_checkpoint_gives_the_same_networks(pair, files, tmp_path):
    more = {  # one file holds all networks
        "betas": np.zeros(1000, np.float32),
        "first_stage_model.encoder.conv_in.weight": np.zeros((4, 3, 3, 3), np.float32),
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": np.zeros(3, np.float32),
        "model_ema.num_updates": np.zeros((), np.int32),
    }
    convert = theirs.convert_ldm_unet_checkpoint, theirs.convert_controlnet_checkpoint
    for index, ours in enumerate((denoiser, trimap_encoder)):
        config = dict(pair[index].config)
        keys = keys_of("original", *ours())
        original = as_original(state_of(pair[index]), keys, partial(convert[index], config=config))
        path = write(tmp_path / f"{index}.safetensors", original | more)
        assert_same_arrays(load(*ours(), path), load(*ours(), files[index]))


@pytest.mark.parametrize("name", ["denoiser", "trimap encoder"])
def test_full_size_by_key_and_shape(name):
    """Without a number in memory, in both layouts. The counts are those of the published files."""
    with torch.device("meta"):
        model = unet(FULL) if name == "denoiser" else controlnet(FULL, FULL_TRIMAP)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if name == "denoiser":
        ours, published, count = Denoiser(FULL, rngs=None), unet_layouts.denoiser(FULL), 859_520_964
    else:
        ours, published = TrimapEncoder(FULL, FULL_TRIMAP, rngs=None), unet_layouts.trimap_encoder(FULL, FULL_TRIMAP)
        count = 361_279_120
    leaves = shapes_of(ours)
    assert sum(math.prod(shape) for shape in leaves.values()) == count
    diffusers_, _ = published.layouts(leaves)
    assert diffusers_.published(leaves) == expected
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in keys_of("original", ours, published).items()}
    convert = theirs.convert_ldm_unet_checkpoint if name == "denoiser" else theirs.convert_controlnet_checkpoint
    converted = convert(tensors, config=dict(model.config))
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected


@pytest.mark.parametrize("count", [10, 50])
def test_sampler_steps_are_diffusers(count):
    schedule = noise_schedule()
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(count)
    steps = ddim(schedule, count)
    np.testing.assert_array_equal(steps.step, scheduler.timesteps)
    np.testing.assert_allclose(schedule.alpha_bar, scheduler.alphas_cumprod, rtol=2e-5)
    latent, noise = np.random.default_rng(0).standard_normal((2, 1, 2, 2, 4)).astype(np.float32)
    x, e = (torch.from_numpy(a) for a in (latent, noise))
    for index in (0, count // 2, count - 1):
        t = int(steps.step[index])
        found = ddim_step(*map(jnp.asarray, (latent, noise)), steps.alpha_bar[index], steps.alpha_bar_after[index])
        np.testing.assert_allclose(found, scheduler.step(e, t, x).prev_sample, rtol=1e-4, atol=1e-4)
        ours = noised(jnp.asarray(latent), jnp.asarray(noise), jnp.asarray(schedule.alpha_bar[[t]]))
        np.testing.assert_allclose(ours, scheduler.add_noise(x, e, torch.tensor([t])), rtol=1e-4, atol=1e-5)
