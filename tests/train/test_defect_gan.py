"""Defect-GAN: what it leaves alone, what decides what it draws, its losses, its monitors, its settings."""

from itertools import pairwise
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.config import ConfigError, find_config, load_config
from train.data.defect_mask import load_defect_mask
from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.loss import classification, gradient_penalty, mask_cycle, mask_size, risen
from train.generators.defect_gan.material import pairs_of_indices
from train.generators.defect_gan.model import DefectGAN, Generator, Layer
from train.generators.defect_gan.players import Pairs, cycles_of, draw_noise
from train.generators.defect_gan.sample import paint
from train.generators.defect_gan.watch import sentences
from train.run import preprocessing_of

TINY = Path("configs/defect_gan/tiny.yaml")


def tiny(*overrides: str) -> DefectGANConfig:
    return load_config(TINY, DefectGANConfig, ["categories=[crack, dent]", "exclusive=true", *overrides])


def drawing(config):
    """(images, control, noise, strength) -> Painted, and the generator, whose mask is small in places and large in
    others."""
    generator = DefectGAN(config, rngs=nnx.Rngs(0)).generator
    rng = np.random.default_rng(0)
    state = nnx.state(generator, nnx.Param)
    nnx.update(generator, jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), state))
    generator.mask.bias[...] = jnp.full(1, -4.0)
    return jax.jit(lambda *inputs: paint(generator, *inputs, config))


@pytest.fixture(scope="module")
def painted():
    config = tiny()
    draw = drawing(config)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8))
    control = jnp.zeros((3, 16, 16, 3)).at[..., 0].set(1)
    noise = draw_noise(jax.random.split(jax.random.key(0), 3), config)
    return draw, images, control, noise


def test_outside_the_mask_the_image_is_the_normal_one(painted):
    draw, images, control, noise = painted
    drawn, mask = draw(images, control, noise, jnp.ones(3))
    outside = np.asarray(mask) < 0.01
    assert 0.02 < outside.mean() < 0.98
    np.testing.assert_array_equal(np.asarray(drawn)[outside], np.asarray(images)[outside])
    assert np.abs(np.asarray(drawn, int) - np.asarray(images, int))[~outside].max() > 20


def test_an_image_depends_on_its_own_noise_category_and_place_only(painted):
    draw, images, control, noise = painted
    mask = np.asarray(draw(images, control, noise, jnp.ones(3)).mask)
    others = images.at[1:].set(7), control.at[1:].set(0), noise.at[1:].set(0)
    np.testing.assert_allclose(draw(*others, jnp.ones(3)).mask[0], mask[0], atol=1e-5)
    for changed in (
        (images, control, noise.at[0].add(1.0)),
        (images, control.at[0].set(control[0, ..., ::-1]), noise),
        (images, control.at[0, :8].set(0), noise),
    ):
        assert np.abs(np.asarray(draw(*changed, jnp.ones(3)).mask)[0] - mask[0]).max() > 1e-3


def test_strength_scales_the_mask_image_by_image(painted):
    draw, images, control, noise = painted
    whole = draw(images, control, noise, jnp.ones(3))
    some = draw(images, control, noise, jnp.array([0.5, 1.0, 0.25]))
    np.testing.assert_allclose(some.mask, whole.mask * jnp.array([0.5, 1.0, 0.25])[:, None, None], atol=1e-6)
    half = (np.asarray(whole.images[0], float) + np.asarray(images[0], float)) / 2
    np.testing.assert_allclose(some.images[0], half, atol=1.01)


def test_every_block_has_noise_and_its_maps_are_as_many_as_the_row_holds():
    config = tiny("noise_start=0.1")
    generator = DefectGAN(config, rngs=nnx.Rngs(0)).generator
    assert len(generator.noises) == len(generator.blocks) == 5 + config.residual_blocks
    noise = draw_noise(jax.random.split(jax.random.key(0), 1), config)
    x, control = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3))
    of_noise = jax.jit(jax.grad(lambda noise: generator(x, control, noise).mask[0, 3:9].sum()))(noise)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(generator)))  # a step would compile twice
    starts = np.cumsum([0, 256, 64, 16, 16, 64, 256])
    assert starts[-1] == config.noise_numbers == noise.shape[1]
    assert all(np.abs(of_noise[0, a:b]).max() > 0 for a, b in pairwise(starts))


@pytest.mark.parametrize("name", ["no_composition", "no_noise", "no_spade"])
def test_an_ablation_is_the_cpu_config_with_one_thing_less(name):
    full, less = (load_config(find_config("defect_gan", n), DefectGANConfig, ["categories=[a]"]) for n in ("cpu", name))
    differ = {key for key in DefectGANConfig.model_fields if getattr(full, key) != getattr(less, key)}
    assert differ == ({"composition", "noise", "spade"} if name == "no_spade" else {name.removeprefix("no_")})
    model = nnx.eval_shape(lambda: Generator(less, rngs=nnx.Rngs(0)))
    assert (model.mask is None) == (not less.composition)
    image = jnp.zeros((1, 64, 64, 3))
    layer = jax.eval_shape(
        lambda: Generator(less, rngs=nnx.Rngs(0))(image, image[..., :2], jnp.zeros((1, less.noise_numbers)))
    )
    assert layer.mask.shape == (1, 64, 64, 1)
    assert (model.noises is None) == (not less.noise)
    assert model.blocks[0].conv.kernel.shape[2] == (3 if less.spade else 3 + 2)


def test_both_cycles_ask_for_what_their_partner_shows():
    config = tiny("flips=none", "mask_probability=1.0")
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[0, 2:5, 3:9] = 255
    labels = jnp.asarray([[1, 0, 0], [0, 1, 0]], jnp.uint8)
    images = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    cycles = cycles_of(Pairs(images, images + 255, labels, jnp.asarray(mask)), jax.random.key(0), config)
    np.testing.assert_array_equal(cycles.asked, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(cycles.labels, [[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(cycles.there[0, ..., 0], mask[0] / 255)  # the defect's place on the normal image
    np.testing.assert_array_equal(cycles.back[2], cycles.there[0])
    assert cycles.there[2, ..., 2].min() == 1  # restoration is asked for everywhere
    assert cycles.there.sum() == 18 + 2 * 256
    assert cycles.images[:2].max() == -1
    whole = tiny("flips=none", "mask_probability=0.0")
    assert cycles_of(Pairs(images, images, labels, jnp.asarray(mask)), jax.random.key(0), whole).there.sum() == 4 * 256


def test_matched_light_leaves_a_defective_image_its_defect_and_takes_its_colour():
    rng = np.random.default_rng(0)
    normal = rng.integers(20, 60, (2, 16, 16, 3), np.uint8)
    defective = np.clip(rng.normal(120, 3, (2, 16, 16, 3)) * [1.5, 1.0, 0.4], 0, 255).astype(np.uint8)
    defective[:, 4:8, 4:8] //= 2
    pairs = Pairs(
        *map(jnp.asarray, (normal, defective, np.eye(3, dtype=np.uint8)[:2], np.full((2, 16, 16), 255, np.uint8)))
    )
    matched = (cycles_of(pairs, jax.random.key(0), tiny("match_light=true", "flips=none")).images[2:] + 1) * 127.5
    np.testing.assert_allclose(matched.mean(axis=(1, 2)), normal.mean(axis=(1, 2)), rtol=0.05)
    np.testing.assert_allclose(matched[:, 4:8, 4:8].mean() / matched[:, 10:].mean(), 0.5, rtol=0.05)


def test_losses_by_hand():
    logits, labels = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[1.0, 0.0, 0.0]])
    shares = np.exp([2, -1, 0.5]) / np.exp([2, -1, 0.5]).sum()
    np.testing.assert_allclose(classification(logits, labels, exclusive=True), [-np.log(shares[0])], rtol=1e-6)
    ones = 1 / (1 + np.exp(-np.array([2, -1, 0.5])))
    by_hand = -np.log(ones[0]) - np.log(1 - ones[1]) - np.log(1 - ones[2])
    np.testing.assert_allclose(classification(logits, labels, exclusive=False), [by_hand], rtol=1e-6)
    np.testing.assert_allclose(gradient_penalty(jnp.full((2, 4, 4, 1), 0.5)), [1, 1], rtol=1e-5)  # a norm of 2
    there, back = jnp.full((1, 2, 2, 1), 0.25), jnp.array([0.0, 0.0, 0.5, 0.5]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose([mask_cycle(there, back)[0], mask_size(there, back)[0]], [0.25, 0.5])
    assert [float(risen(2.0, jnp.float32(n), 100, 0.1)) for n in (0, 5, 10, 90)] == [0, 1, 2, 2]
    layer = Layer(jnp.full((1, 1, 1, 3), 0.5), jnp.full((1, 1, 1, 1), 0.25))
    np.testing.assert_allclose(layer.over(jnp.full((1, 1, 1, 3), -0.5))[0, 0, 0], [-0.25] * 3)


def test_a_mask_that_vanishes_or_covers_is_said():
    config = tiny()
    assert sentences({"mask_defect": 0.1, "mask_restored": 0.49}, config) == ()
    said = sentences({"mask_defect": 0.004, "mask_restored": 0.51}, config)
    assert "mean mask of drawn defects is 0.0040, below 0.005: it vanishes" in said[0]
    assert "mean mask of restored images is 0.510, above 0.5: it covers" in said[1]
    assert sentences({"mask_defect": 1.0}, tiny("composition=false")) == ()


def test_pairs_go_through_both_sides_and_a_thin_mask_stays(tmp_path):
    config = tiny()
    drawn = np.concatenate(list(pairs_of_indices(8, 4, config, 0, 4)))
    assert [set(column) for column in drawn.T] == [set(range(8)), set(range(4))]
    again = np.concatenate(list(pairs_of_indices(8, 4, config, 2, 4)))
    np.testing.assert_array_equal(drawn[8:], again)  # a resumed run sees what it would have seen
    line = np.zeros((64, 64), np.uint8)
    line[:, 33] = 255
    cv2.imwrite(str(tmp_path / "line.png"), line)
    assert load_defect_mask(tmp_path / "line.png", preprocessing_of(config)).any(axis=1).all()


def test_settings_that_do_not_fit_are_a_sentence():
    for override, words in (
        ("image_size=30", "image_size is 30, but the generator halves images twice. Set a multiple of 4, such as 28"),
        ("critic_layers=5", "critic_layers is 5, but 16 px can't be halved so often"),
        ("schedule=cosine", "schedule"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny(override)
