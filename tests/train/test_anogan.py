"""AnoGAN: networks as the sheet counts them, and a search that each image makes for itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import ConfigError, find_config, load_config
from train.data.samples import DataError
from train.detectors.anogan import ANOGAN, AnoGANConfig, refuse_constant
from train.detectors.anogan.frozen import discriminate, fold, generate, in_tiles
from train.detectors.anogan.invert import PROGRESS, invert, rate_at
from train.detectors.anogan.layout import LAYOUTS
from train.detectors.anogan.loss import discriminator_loss, generator_loss, mapping_loss
from train.detectors.anogan.model import AnoGAN, Judged, Kernel
from train.detectors.anogan.score import at_once, form_of, of_tiles
from train.detectors.anogan.settings import Inversion
from train.detectors.anogan.watch import closeness, sentences, spread
from train.detectors.detector import parameter_count
from train.tiling import Tiling

SEED = LAYOUTS["seed"]


def small(form="matmul", network="seed", channels=1, dtype=jnp.float32, *, biases=False):
    """Both networks, narrow and shaken, so that batch normalisation and biases do something."""
    model = AnoGAN(LAYOUTS[network], 8, 4, channels, form=form, biases=biases, rngs=nnx.Rngs(0))
    generator = np.random.default_rng(0)
    for _, part in nnx.iter_graph(model):
        if isinstance(part, Kernel) and part.bias is not None:
            part.bias[...] = jnp.asarray(generator.normal(size=part.bias.shape) * 0.3, jnp.float32)
        if isinstance(part, nnx.BatchNorm):
            part.mean[...] = jnp.asarray(generator.normal(size=part.mean.shape) * 0.1, jnp.float32)
            part.var[...] = jnp.asarray(generator.uniform(0.01, 0.1, part.var.shape), jnp.float32)
    model.eval()
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(model)))
    return model


def images(count, size=28, channels=1, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, size, size, channels)), dtype)


@pytest.mark.parametrize(
    ("network", "channels", "generator", "discriminator"),
    [("seed", 1, 2_756_352, 132_481), ("dcgan", 3, 5_356_096, 4_315_585), ("dcgan", 1, 5_352_896, 4_312_385)],
)
def test_parameters_are_as_many_as_the_sheet_counts(network, channels, generator, discriminator):
    model = nnx.eval_shape(lambda: AnoGAN(LAYOUTS[network], 128, 64, channels, form="plain", rngs=nnx.Rngs(0)))
    assert parameter_count(model.generator) == generator
    assert parameter_count(model.discriminator) == discriminator


@pytest.mark.parametrize(("network", "channels", "biases"), [("seed", 1, False), ("dcgan", 3, True)])
def test_folded_networks_are_the_modules_in_evaluation_mode_in_all_forms(network, channels, biases):
    plain, layout = small("plain", network, channels, biases=biases), LAYOUTS[network]
    z, x = jax.random.normal(jax.random.key(1), (3, 8)), images(3, layout.size, channels)
    networks = fold(plain)
    drawn_by_modules = nnx.jit(lambda model: model.generator(z))(plain)
    judged_by_modules = nnx.jit(lambda model: model.discriminator(x))(plain)
    for form in ("plain", "matmul", "tiles"):
        networks = in_tiles(networks, layout) if form == "tiles" else networks
        drawn = jax.jit(partial(generate, layout=layout, form=form))(networks, z)
        np.testing.assert_allclose(drawn, drawn_by_modules, atol=1e-5)
        judged = jax.jit(partial(discriminate, layout=layout, form=form))(networks, x)
        for found, expected in zip(judged, judged_by_modules, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert drawn_by_modules.shape == x.shape


@pytest.mark.parametrize(("biases", "blind"), [(False, True), (True, False)])
def test_how_strong_all_images_are_is_seen_by_its_biases_alone(biases, blind):
    """Batch statistics take the strength of a whole batch out of all that follows the first layer."""
    model, x = small(biases=biases), images(8)
    model.train()
    for conv in model.discriminator.convs:  # as after a training: epsilon is nothing against the variances
        conv.kernel[...] *= 20
    strong, faint = (model.discriminator(share * x).feature for share in (1.0, 0.4))
    assert np.allclose(strong, faint, atol=2e-3) == blind


def test_biases_belong_to_the_two_layers_without_batch_normalisation():
    without, with_biases = (
        nnx.eval_shape(lambda b=biases: AnoGAN(LAYOUTS["dcgan"], 128, 64, 3, form="plain", biases=b, rngs=nnx.Rngs(0)))
        for biases in (False, True)
    )
    assert parameter_count(with_biases.generator) - parameter_count(without.generator) == 3
    assert parameter_count(with_biases.discriminator) - parameter_count(without.discriminator) == 64


@pytest.mark.parametrize(
    ("network", "filters", "many", "form"),
    [("seed", 64, 256, "tiles"), ("seed", 8, 256, "matmul"), ("dcgan", 64, 256, "tiles"), ("dcgan", 16, 24, "matmul")],
)
def test_how_many_are_searched_for_at_once_and_in_which_form(network, filters, many, form):
    size = LAYOUTS[network].size
    config = AnoGANConfig(network=network, image_size=size, filters=filters)
    assert (at_once(config), form_of(config, 256)) == (many, form)
    assert form_of(config, 1) == "matmul"


def by_hand(networks, x, start, settings):
    """The search of one image, a step at a time, by Optax and without any of the batch's machinery."""
    of_x = discriminate(networks, x, SEED, "plain")

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        drawn = generate(networks, z, SEED, "plain")
        return mapping_loss(x, of_x, drawn, discriminate(networks, drawn, SEED, "plain"), settings)[0]

    z, curve = start[None], []
    adam = optax.scale_by_adam()
    state = adam.init(z)
    for number in range(settings.steps):
        value, gradient = loss(z)
        curve.append(value)
        update, state = adam.update(gradient, state)
        share = number / (settings.steps - 1)
        rate = settings.final_rate + (settings.rate - settings.final_rate) * 0.5 * (1 + np.cos(np.pi * share))
        z = z - rate * update
    return z[0], loss(z)[0], curve


@pytest.mark.parametrize(("distance", "form"), [("l1", "matmul"), ("mse", "tiles")])
def test_the_search_equals_a_plain_reference_in_float64(distance, form):
    with jax.enable_x64(True):
        networks, x = fold(small(dtype=jnp.float64)), images(3, dtype=jnp.float64)
        start, how = jax.random.normal(jax.random.key(2), (8,), jnp.float64), Inversion(12, distance=distance)
        found = jax.jit(partial(invert, settings=how, layout=SEED, form=form, keep_curve=True))(
            networks, x, start[None]
        )
        for number in (0, 2):
            z, loss, curve = by_hand(networks, x[number : number + 1], start, how)
            np.testing.assert_allclose(found.z[number], z, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(found.loss[number], loss, rtol=1e-5)
            np.testing.assert_allclose(found.curve[:, number], curve, rtol=1e-5)
        assert (found.loss < found.curve[0]).all()


STARTS = jax.random.normal(jax.random.key(3), (1, 8))
search_of = {
    (patience, form): jax.jit(partial(invert, settings=Inversion(40, patience=patience), layout=SEED, form=form))
    for patience, form in ((0, "matmul"), (3, "matmul"), (0, "tiles"))
}


@pytest.mark.parametrize("how", search_of)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), place=st.integers(0, 3), others=st.integers(0, 2**16))
def test_a_result_does_not_depend_on_what_else_is_in_the_batch(how, seed, place, others):
    networks, mine = fold(small()), images(1, seed=seed)
    scores = []
    for batch in (jnp.repeat(mine, 4, axis=0), images(4, seed=others).at[place].set(mine[0])):
        found = search_of[how](networks, batch, STARTS)
        scores.append((found.loss[place], found.z[place], found.drawn[place]))
    for a, b in zip(*scores, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_of_several_starts_the_best_end_is_kept():
    networks, x = fold(small()), images(4)
    starts = jax.random.normal(jax.random.key(4), (3, 8)) * jnp.array([[0.1], [1.0], [3.0]])
    search = jax.jit(partial(invert, settings=Inversion(5), layout=SEED, form="matmul"))
    alone = [search(networks, x, start[None]) for start in starts]
    best = search(networks, x, starts)
    losses = np.stack([found.loss for found in alone])
    assert len(set(losses.argmin(axis=0))) > 1 or losses.std() > 0
    np.testing.assert_allclose(best.loss, losses.min(axis=0), rtol=1e-5)
    for number, which in enumerate(losses.argmin(axis=0)):
        np.testing.assert_allclose(best.z[number], alone[which].z[number], rtol=1e-4, atol=1e-5)


def test_a_sample_that_makes_no_progress_stands_still_and_the_others_go_on():
    networks, how = fold(small()), Inversion(60, 0.05, 0.05, patience=2)
    targets = jnp.concatenate([STARTS, 2 * jax.random.normal(jax.random.key(5), (1, 8))])
    x = jax.jit(partial(generate, layout=SEED, form="matmul"))(networks, targets)  # the first is found before it begins
    search = partial(invert, layout=SEED, form="matmul", keep_curve=True)
    found = jax.jit(partial(search, settings=how))(networks, x, STARTS)
    endless = jax.jit(partial(search, settings=how._replace(patience=0)))(networks, x, STARTS)
    first, second = np.asarray(found.curve).T
    stopped = int(np.argmax(first[1:] == first[:-1]))
    assert 0 < stopped < 10
    np.testing.assert_array_equal(first[stopped:], first[stopped])
    assert second[stopped + 5] < second[stopped] * (1 - PROGRESS)
    np.testing.assert_allclose(second[: stopped + 6], endless.curve[: stopped + 6, 1], rtol=1e-4)
    assert not np.allclose(endless.z[0], found.z[0])


def test_the_rate_falls_by_half_a_cosine():
    rates = [float(rate_at(jnp.asarray(float(number)), Inversion())) for number in (0, 249.5, 499)]
    np.testing.assert_allclose(rates, [0.02, 0.011, 0.002], rtol=1e-5)


def test_losses_at_known_points():
    zeros, sure = jnp.zeros(2), jnp.full(2, 20.0)
    np.testing.assert_allclose(discriminator_loss(zeros, zeros), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(discriminator_loss(sure, -sure), 0, atol=1e-6)
    np.testing.assert_allclose(generator_loss(-sure), 20, rtol=1e-6)  # does not saturate where it is caught
    x, feature = jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 3))
    drawn = Judged(jnp.zeros(1), feature + 3)
    assert float(mapping_loss(x, Judged(jnp.zeros(1), feature), x + 2, drawn, Inversion())[0]) == pytest.approx(2.1)
    mse = Inversion(distance="mse")
    assert float(mapping_loss(x, Judged(jnp.zeros(1), feature), x + 2, drawn, mse)[0]) == pytest.approx(4.5)


def test_an_images_score_is_that_of_its_highest_tile_or_of_a_quantile():
    tiling = Tiling(8, 4)
    scores, maps = jnp.arange(8.0), jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 4, 4))
    whole = of_tiles(scores, maps, tiling, 1.0)
    np.testing.assert_array_equal(whole.image_score, [3, 7])
    np.testing.assert_array_equal(whole.anomaly_map[0, ::4, ::4], [[0, 1], [2, 3]])
    np.testing.assert_allclose(of_tiles(scores, maps, tiling, 0.5).image_score, [1.5, 5.5])


def test_monitors_say_what_they_saw():
    good = images(16)
    assert float(closeness(good, good[::-1]).mean()) == 0
    assert float(closeness(good, good + 1).mean()) < -0.1
    assert float(spread(good, good[::-1])[0]) == pytest.approx(1)
    assert float(spread(good, jnp.repeat(good[:1], 16, axis=0))[0]) < 1e-3
    assert sentences({"spread": 0.9, "good_probability": 0.6, "drawn_probability": 0.4, "generator_loss": 0.8}) == ()
    assert "0.10 times as much as held-out good ones: the generator has collapsed" in sentences({"spread": 0.1})[0]
    won = sentences({"good_probability": 0.999, "drawn_probability": 0.001, "generator_loss": 25.0})
    assert "tells all apart" in won[0]
    assert "generator's loss is 25.0" in won[1]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["image_size=48"], "image_size is 48, but this network draws squares of 64 px. Set image_size=64, or more"),
        (["image_size=256", "tile_overlap=40"], "may be at most half of a tile, which has 64 px"),
        (["w_residual=0", "w_feature=0"], "w_residual and w_feature are both 0"),
        (["inversion_final_rate=0.5"], "the rate falls"),
        (["w_resudual=1"], "Did you mean w_residual"),
    ],
)
def test_a_wrong_setting_is_answered(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(find_config("anogan", "tiny"), AnoGANConfig, overrides)


def test_every_config_is_valid_and_the_seeds_is_its_code():
    for name in ("tiny", "cpu", "paper", "seed_code"):
        load_config(find_config("anogan", name), AnoGANConfig)
    config = load_config(find_config("anogan", "seed_code"), AnoGANConfig)
    assert (config.input_size, config.channels, config.batch_size, config.inversion_steps) == (28, 1, 512, 2001)
    assert "0.9 x mean squared difference" in ANOGAN.score_definition(config)


def test_constant_images_are_refused():
    flat = np.full((4, 28, 28, 3), 77, np.uint8)
    with pytest.raises(DataError, match="Every training image is of one colour"):
        refuse_constant(None, lambda: iter([flat, flat + 3]))
    flat[2, 5, 5] = 99
    refuse_constant(None, lambda: iter([flat]))
