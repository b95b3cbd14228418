"""What AdaBLDM's training is fed, how it counts its memory, what its settings refuse."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.config import ConfigError, load_config
from train.generators import find_generator
from train.generators.adabldm import material, memory
from train.generators.adabldm.attention import SpatialTransformer
from train.generators.adabldm.config import AdaBLDMConfig
from train.generators.adabldm.loss import noise_error
from train.generators.adabldm.material import EMPTY, FIRST_CATEGORY, NORMAL, Resident, examples, numbers
from train.generators.adabldm.networks import Trained
from train.generators.adabldm.noise_schedule import noise_schedule
from train.generators.adabldm.players import with_noise
from train.generators.adabldm.residual import ResidualBlock
from train.generators.adabldm.unet import Denoiser
from train.generators.adabldm.watch import sentences

ADABLDM = find_generator("adabldm")
CONFIGS = Path("configs/adabldm")
SIDE, CELLS = 16, 4
GIGABYTE = 1e9


class Shrunk:
    """An autoencoder whose latents are mean colours of cells."""

    def encode(self, images):
        n, side = images.shape[0], CELLS
        return images.reshape(n, side, SIDE // side, side, SIDE // side, 3).mean(axis=(2, 4))


jax.tree_util.register_static(Shrunk)


@pytest.fixture(scope="module")
def resident() -> Resident:
    """Dark normal images and bright defects of three categories; a latent is its image's number, so it tells whose."""
    random = np.random.default_rng(0)
    mask = np.zeros((3, SIDE, SIDE), bool)
    mask[:, 4:13, 4:13] = True
    foreground = np.zeros((5, SIDE, SIDE), bool)
    foreground[:, 2:14, 2:14] = True
    latents = [
        np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, CELLS, CELLS, 3)) for n in (5, 3)
    ]
    return Resident(
        normal=jnp.asarray(random.integers(0, 60, (5, SIDE, SIDE, 3), np.uint8)),
        foreground=jnp.asarray(foreground),
        normal_latent=jnp.asarray(latents[0]),
        defective=jnp.full((3, SIDE, SIDE, 3), 250, jnp.uint8),
        mask=jnp.asarray(mask),
        defective_latent=jnp.asarray(100 + latents[1]),
        prompt=jnp.asarray([FIRST_CATEGORY, FIRST_CATEGORY + 2, FIRST_CATEGORY + 1]),
        words=jnp.arange(5)[:, None],
        autoencoder=Shrunk(),
    )


EXAMPLES = jax.jit(examples, static_argnames="config")
CONFIG = AdaBLDMConfig(text="words", image_size=32, foreground="texture", categories=("a", "b", "c"))


def batch(count: int = 400) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.stack([random.integers(0, 5, count), random.integers(0, 3, count), np.arange(count)], 1).astype(np.int32)


@pytest.fixture(scope="module")
def made(resident):
    return jax.tree.map(np.asarray, EXAMPLES(batch(), resident, CONFIG))


def test_captions_say_what_the_image_shows_and_a_tenth_says_nothing(resident, made):
    shown, words = made.captioned.latent[:, 0, 0, 0], made.captioned.words[:, 0]
    is_defect = shown >= 100
    np.testing.assert_array_equal(shown, np.where(is_defect, 100 + batch()[:, 1], batch()[:, 0]))
    right = np.where(is_defect, np.asarray(resident.prompt)[batch()[:, 1]], NORMAL)
    np.testing.assert_array_equal(words[words != EMPTY], right[words != EMPTY])
    for found, share in ((words == EMPTY, 0.1), (is_defect, 0.5), (made.pasted.words[:, 0] == EMPTY, 0.1)):
        assert abs(found.mean() - share) < 3 * (share * (1 - share) / len(words)) ** 0.5
    assert ((words == EMPTY) != (made.pasted.words[:, 0] == EMPTY)).any()  # coins of their own


def test_a_pair_is_bright_where_its_trimap_says_defect_and_its_prompt_names_it(resident, made):
    pairs = made.pasted
    assert set(np.unique(pairs.trimap)) == {0.0, 0.5, 1.0}
    defect = (pairs.trimap == 1).reshape(-1, CELLS, SIDE // CELLS, CELLS, SIDE // CELLS)
    whole, none = defect.all(axis=(2, 4)), ~defect.any(axis=(2, 4))
    brightness = pairs.latent.mean(axis=-1)  # of cells, in [-1, 1]
    assert whole.any()
    assert brightness[whole].min() > 0.9
    assert brightness[none].max() < -0.5
    named = pairs.words[:, 0] != EMPTY
    right = np.asarray(resident.prompt)[batch()[:, 1]]
    np.testing.assert_array_equal(pairs.words[named, 0], right[named])
    assert (pairs.empty == EMPTY).all()


def test_an_example_hangs_on_its_own_numbers_and_on_the_seed(resident, made):
    order = np.random.default_rng(2).permutation(400)
    again = EXAMPLES(batch()[order], resident, CONFIG)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[order], atol=1e-5), again, made)
    first = batch()
    first[:, 2] += 400  # later in the run: the same images, drawn upon anew
    later = EXAMPLES(first, resident, CONFIG)
    assert np.abs(np.asarray(later.pasted.trimap) - made.pasted.trimap).max() > 0


def test_batches_count_examples_on_and_go_through_all_images():
    config = CONFIG.model_copy(update={"batch_size": 3})
    found = np.concatenate(list(numbers(6, 2, config, 0, 4)))
    np.testing.assert_array_equal(found[:, 2], np.arange(12))
    assert sorted(found[:6, 0]) == sorted(found[6:, 0]) == list(range(6))
    np.testing.assert_array_equal(found[6:], np.concatenate(list(numbers(6, 2, config, 2, 4))))


def test_noise_is_that_of_the_steps_and_the_loss_its_mean_square():
    latent = jnp.ones((3, 32, 32, 4))
    noisy = with_noise(latent, jax.random.key(0), jnp.asarray([0, 500, 999]))
    share = noise_schedule().alpha_bar[[0, 500, 999]]
    np.testing.assert_allclose(noisy.latent.mean(axis=(1, 2, 3)), share**0.5, atol=0.06)
    np.testing.assert_allclose(noisy.latent.var(axis=(1, 2, 3)), 1 - share, atol=0.05)
    np.testing.assert_allclose(noise_error(jnp.zeros_like(noisy.noise), noisy.noise), 1, atol=0.06)
    told = noisy.noise.at[1].add(2)
    np.testing.assert_allclose(noise_error(told, noisy.noise), [0, 4, 0], atol=1e-6)
    drawn = with_noise(jnp.ones((500, 1, 1, 1)), jax.random.key(1)).step
    assert drawn.min() < 20
    assert drawn.max() > 980


def test_a_fresh_networks_errors_are_those_of_telling_nothing_and_are_said(resident):
    said = sentences({"noise_of_normal": 0.999, "trimap_loss": 1.0, "share_by_trimap": 1.2}, CONFIG)
    assert "the loss is not falling" in said[0]
    assert "1.200 times that without: the trimap tells the denoiser nothing yet" in said[1]
    assert sentences({"noise_of_normal": 0.3, "share_by_trimap": 1.0}, CONFIG) == ()  # no second phase yet


def recorded(module, *arrays, dtype) -> int:
    """Bytes that JAX keeps for the gradient of a module, its weights and shared inputs left out."""
    module = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), module)
    kept = jax.eval_shape(lambda module, *a: jax.vjp(lambda m, *a: m(*a), module, *a)[1], module, *arrays)
    weights = {leaf.shape for leaf in jax.tree.leaves(module)}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept) if leaf.shape not in weights)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_a_block_keeps_is_what_jax_keeps(dtype):
    wide, (n, side) = jnp.dtype(dtype).itemsize, (2, 16)

    def array(*shape: int):
        return jax.ShapeDtypeStruct(shape, dtype)

    block = ResidualBlock(64, 96, embedding=32, groups=32, epsilon=1e-5, rngs=None)
    found = recorded(block, array(n, side, side, 64), array(n, 32), dtype=dtype)
    assert found == pytest.approx(n * memory.residual(side**2, 64, 96, wide, False).inside, rel=0.02)
    block = SpatialTransformer(96, 192, 6, 32, rngs=None)
    found = recorded(block, array(n, side, side, 96), array(n, 4, 192), dtype=dtype)
    assert found == pytest.approx(n * memory.transformer(side**2, 96, 6, 4, wide, False).inside, rel=0.03)


@pytest.mark.parametrize("again", [False, True])
def test_what_a_denoiser_keeps_is_what_jax_keeps(again):
    config = AdaBLDMConfig(image_size=128, rematerialise=again, epochs=1, domain_epochs=1)
    unet, n = config.networks.unet, config.batch_size
    arrays = (
        jax.ShapeDtypeStruct((n, 16, 16, unet.latent_channels), jnp.float32),
        jax.ShapeDtypeStruct((n,), jnp.int32),
        jax.ShapeDtypeStruct((n, 4, unet.context), jnp.float32),
    )
    module = Denoiser(unet, rngs=None)
    kept = jax.eval_shape(
        lambda module, *a: jax.vjp(lambda m: m(*a), module)[1],
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), module),
        *arrays,
    )
    weights = {leaf.shape for leaf in jax.tree.leaves(module)}
    found = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept) if leaf.shape not in weights)
    counted = n * sum(block.kept for block in memory.blocks_of(config))
    assert found == pytest.approx(counted, rel=0.1)


def test_stable_diffusion_fits_24_gigabytes_as_the_paper_s_config_has_it():
    config = load_config(CONFIGS / "paper.yaml", AdaBLDMConfig, ["categories=[a, b, c]"])
    estimate = memory.estimate(config)
    assert 20 * GIGABYTE < estimate.total < 24 * GIGABYTE
    weights = 4 * (859.5e6 + 361.3e6)
    assert estimate.parts["AdamW's moments"] == pytest.approx(2 * weights, rel=0.01)
    plain = config.model_copy(update={"compute": "float32", "rematerialise": False})
    assert memory.map_bytes(plain) > 4 * memory.map_bytes(config)
    assert "maps 1" in estimate.sentence()
    for change in ({"batch_size": 8}, {"average_decay": 0.999}, {"micro_batches": 2}):
        more = memory.estimate(config.model_copy(update=change))
        assert more.total > estimate.total  # a second part's gradients take more than its maps save
    assert memory.map_bytes(config.model_copy(update={"micro_batches": 2})) < memory.map_bytes(config)


def test_bfloat16_computes_but_keeps_its_weights():
    config = load_config(CONFIGS / "tiny.yaml", AdaBLDMConfig, ["compute=bfloat16", "categories=[a]"])
    model = Trained(config, rngs=None)
    latent, step, words = jnp.ones((1, 8, 8, 4)), jnp.asarray([500]), jnp.zeros((1, 16), jnp.int32)
    told = jax.eval_shape(lambda m: m.told(latent, step, words), model)
    assert told.dtype == jnp.bfloat16
    grads = jax.eval_shape(jax.grad(lambda m: noise_error(m.told(latent, step, words), latent).mean()), model)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_published_text_encoders_give_contexts_that_no_table_is_trained_for():
    config = load_config(CONFIGS / "tiny.yaml", AdaBLDMConfig, ["text=clip", "categories=[a]"])
    model = Trained(config, rngs=None)
    assert model.text is None
    assert config.networks.unet.context == 768
    words = jnp.ones((1, 77, 768))
    told = jax.eval_shape(lambda m: m.told(jnp.ones((1, 8, 8, 4)), jnp.asarray([500]), words), model)
    assert told.shape == (1, 8, 8, 4)
    assert [phase.players[0].parts for phase in ADABLDM.phases(config)] == [("denoiser",), ("trimap_encoder",)]
    assert memory.parameter_counts(config).keys() == {"denoiser", "trimap_encoder"}
    alone = config.model_copy(update={"domain_epochs": 0})
    assert [(phase.epochs, phase.start) for phase in ADABLDM.phases(alone)] == [(2, None)]


@pytest.mark.parametrize("name", ["tiny", "cpu", "small", "paper"])
def test_configs_hold(name):
    config = load_config(CONFIGS / f"{name}.yaml", AdaBLDMConfig)
    assert 0 < config.domain_epochs < config.epochs
    assert config.empty_share == 0.1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["prompt='a {part}'"], r"\{part\} is no blank of a prompt. There are \{object\} and \{defect\}"),
        (["prompt='a {object'"], "a prompt's braces don't pair"),
        (["image_size=72"], "image_size is 72, but small needs a multiple of 32. Set, say, 128"),
        (["epochs=3", "domain_epochs=4"], "domain_epochs is 4, more than epochs: 3"),
        (["batch_size=4", "micro_batches=3"], "micro_batches is 3, which does not divide batch_size: 4"),
        (["negative_prompt=blurred"], "only whole prompts of the training are known"),
        (["stages=slowly"], "There is no preset of the stages called 'slowly'"),
        (["backbone=resnet1"], "There are resnet18"),
    ],
)
def test_settings_that_do_not_go_together_are_sentences(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load_config(CONFIGS / "small.yaml", AdaBLDMConfig, overrides)


@pytest.mark.slow
def test_rematerialisation_gives_the_same_gradient():
    plain = load_config(CONFIGS / "tiny.yaml", AdaBLDMConfig, ["categories=[a]"])
    latent = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    step, words = jnp.asarray([100, 700]), jnp.zeros((2, 16), jnp.int32)
    found = []
    for config in (plain, plain.model_copy(update={"rematerialise": True})):
        model = Trained(config, rngs=nnx.Rngs(0))
        model.denoiser.conv_out.kernel[...] = 0.1 * jnp.ones(model.denoiser.conv_out.kernel.shape)

        def loss(denoiser, model=model):
            return noise_error(denoiser(latent, step, model.context(words)), latent).mean()

        found.append(jax.jit(jax.grad(loss))(model.denoiser))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(float(jnp.abs(a).max()), 1.0))


def test_the_orders_of_normal_and_defective_images_differ():
    found = np.concatenate(list(numbers(5, 5, CONFIG, 0, 5)))
    assert (found[:, 0] != found[:, 1]).any()
    assert material.ORDER_OF_DEFECTIVE != 0
