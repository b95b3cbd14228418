"""AESc: the sheet's numbers, its scores against plain NumPy, its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from train.blocks.pixels import to_unit
from train.config import ConfigError, load_config
from train.detectors import find_detector
from train.detectors.aesc.config import AEScConfig
from train.detectors.aesc.loss import mean_squared_error, psnr
from train.detectors.aesc.model import CPU_TRAINING, PLAIN, AESc
from train.detectors.aesc.score import fold, l2_norm, reconstruct, reconstructions, residual_scores
from train.detectors.detector import parameter_count

AESC = find_detector("aesc")
TINY = AEScConfig(image_size=64, filters=2, dropout_passes=5)
UNCERTAIN = TINY.model_copy(update={"scoring": "uncertainty"})


def shaken(model: AESc, seed: int = 0) -> AESc:
    """Weights and running statistics as after a training: nothing at its initial value."""
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    for block in (*model.encoder, *model.decoder):
        for value in (block.norm.scale, block.norm.var):
            value[...] = jax.random.uniform(next(keys), value.shape, minval=0.5, maxval=1.5)
        for value in (block.norm.bias, block.norm.mean, block.conv.bias):
            value[...] = 0.3 * jax.random.normal(next(keys), value.shape)
    return model


@pytest.fixture(scope="module")
def model() -> AESc:
    model = shaken(AESc(3, 2, rngs=nnx.Rngs(0)))
    model.eval()
    return model


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(("channels", "count"), [(3, 8_736_515), (1, 8_734_913)])
def test_parameter_count_is_the_sheets(channels, count):
    """About 8.74 M; exactly what the PyTorch writing of the same network has."""
    assert parameter_count(nnx.eval_shape(lambda: AESc(channels, 16, rngs=nnx.Rngs(0)))) == count


def test_every_level_has_the_sheets_shape():
    model = nnx.eval_shape(lambda: AESc(3, 16, rngs=nnx.Rngs(0)))
    assert [block.conv.kernel.shape for block in model.encoder] == [
        (5, 5, 3, 16), (5, 5, 16, 32), (5, 5, 32, 64), (5, 5, 64, 128), (5, 5, 128, 256), (5, 5, 256, 512),
    ]  # fmt: skip
    assert [block.conv.kernel.shape for block in model.decoder] == [
        (5, 5, 512, 256), (5, 5, 256, 128), (5, 5, 128, 64), (5, 5, 64, 32), (5, 5, 32, 16),
    ]  # fmt: skip
    assert {block.norm.momentum for block in model.encoder} == {0.99}
    assert {block.norm.epsilon for block in model.encoder} == {1e-3}


@pytest.mark.parametrize("skips", [True, False])
def test_fast_forms_equal_the_plain_network_in_training(skips, images):
    """Outputs and gradients; what is fast on a CPU is the same function."""
    x = to_unit(images, 3)

    def loss_and_gradient(forms):
        model = shaken(AESc(3, 2, skips=skips, forms=forms, rngs=nnx.Rngs(0)))
        model.train()
        return nnx.jit(nnx.value_and_grad(lambda model: mean_squared_error(model(x), 1 - x).mean()))(model)

    (plain, plain_gradient), (fast, fast_gradient) = map(loss_and_gradient, (PLAIN, CPU_TRAINING))
    assert float(fast) == pytest.approx(float(plain), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(fast_gradient), jax.tree.leaves(plain_gradient), strict=True):
        # A bias before batch normalisation has no gradient but rounding, hence the absolute part.
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(jnp.abs(theirs).max()) + 1e-6)


@pytest.mark.parametrize("skips", [True, False])
def test_folding_keeps_the_network(skips, images):
    model = shaken(AESc(3, 2, skips=skips, rngs=nnx.Rngs(1)))
    model.eval()
    x = to_unit(images, 3)
    np.testing.assert_allclose(reconstruct(fold(model), x, skips=skips), model(x), atol=2e-5)


def test_the_skips_are_what_tells_aesc_from_ae(images):
    model = shaken(AESc(3, 2, rngs=nnx.Rngs(1)))
    x = to_unit(images, 3)
    assert not np.allclose(reconstruct(fold(model), x, skips=True), reconstruct(fold(model), x, skips=False), atol=1e-2)


def test_residual_is_the_mean_over_channels_in_grey_levels(model, images):
    x = to_unit(images, 3)
    scores = residual_scores(fold(model), x, skips=True, quantise=False)
    y = np.asarray(model(x), np.float64)
    expected = np.abs(np.asarray(images, np.float64) - 255 * y).mean(-1)
    np.testing.assert_allclose(scores.anomaly_map, expected, atol=1e-2)
    np.testing.assert_allclose(scores.image_score, np.sqrt((expected**2).mean((1, 2))), rtol=1e-4)
    quantised = residual_scores(fold(model), x, skips=True, quantise=True).anomaly_map
    levels = 3 * np.asarray(quantised)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)


@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 100))
def test_l2_norm_is_homogeneous_and_of_a_constant_map_the_constant(seed, scale):
    anomaly_map = jax.random.uniform(jax.random.key(seed), (2, 5, 7))
    np.testing.assert_allclose(l2_norm(scale * anomaly_map), scale * l2_norm(anomaly_map), rtol=1e-5)
    np.testing.assert_allclose(l2_norm(jnp.full((1, 4, 4), scale)), [scale], rtol=1e-5)


@pytest.mark.parametrize(
    "rates", [(0.0, 0.0, 0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 0.0, 0.0, 0.1, 0.2), (0.2, 0.1, 0.0, 0.1, 0.0, 0.3)]
)
@pytest.mark.parametrize("network", ["aesc", "ae"])
def test_passes_equal_one_network_run_pass_by_pass(rates, network, model, images):
    """The shared prefix saves work and changes nothing: the twin with active dropout, written out plainly."""
    config = UNCERTAIN.model_copy(update={"dropout_rates": rates, "network": network})
    weights, dropout = AESC.fold(model, None, config)
    x = to_unit(images, 3)
    y = reconstructions(weights, x, dropout, skips=network == "aesc")
    assert y.shape == (3, 5, 64, 64, 3)
    for k in range(5):
        np.testing.assert_allclose(y[:, k], plain_pass(model, x, dropout, k, network == "aesc"), atol=3e-5)


def plain_pass(model: AESc, x, dropout, k: int, skips: bool):
    """One pass through the twin network: dropout after every activation whose rate is above 0."""

    def drop(x, mask, rate):
        return x if mask is None else x * mask[k] / (1 - rate)

    levels = []
    for block, mask, rate in zip(model.encoder, dropout.encoder, dropout.rates, strict=True):
        x = jax.lax.conv_general_dilated(
            x, block.conv.kernel[...], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = drop(block.finish(x), mask, rate)
        levels.append(x)
    for index, (block, mask) in enumerate(zip(model.decoder, dropout.decoder, strict=True)):
        x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "nearest")
        x = drop(block.finish(nnx_conv(x, block.conv.kernel[...])), mask, dropout.rates[4 - index])
        x = x + levels[4 - index] if skips else x
    x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "nearest")
    return jax.nn.sigmoid(nnx_conv(x, model.head.kernel[...]) + model.head.bias[...])


def nnx_conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_uncertainty_is_the_variance_over_the_passes(model, images):
    weights, dropout = AESC.fold(model, None, UNCERTAIN)
    scores = AESC.score((weights, dropout), images, UNCERTAIN)
    y = 255 * np.asarray(reconstructions(weights, to_unit(images, 3), dropout, skips=True), np.float64)
    expected = y.var(axis=1).mean(-1)
    np.testing.assert_allclose(scores.anomaly_map, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores.image_score, np.sqrt((expected**2).mean((1, 2))), rtol=1e-3)


def test_masks_keep_what_the_rates_say_and_repeat_for_the_seed(model):
    _, dropout = AESC.fold(model, None, UNCERTAIN.model_copy(update={"dropout_passes": 200}))
    assert [mask is None for mask in dropout.encoder] == [True, True, False, False, False, False]
    assert [mask is None for mask in dropout.decoder] == [False, False, False, True, True]
    for mask, rate in zip(dropout.encoder[2:], dropout.rates[2:], strict=True):
        assert float(mask.mean()) == pytest.approx(1 - rate, abs=0.02)
    again = AESC.fold(model, None, UNCERTAIN.model_copy(update={"dropout_passes": 200}))[1]
    np.testing.assert_array_equal(again.encoder[5], dropout.encoder[5])
    other = AESC.fold(model, None, UNCERTAIN.model_copy(update={"dropout_passes": 200, "seed": 1}))[1]
    assert not np.array_equal(other.encoder[5], dropout.encoder[5])


def test_scores_of_an_image_do_not_depend_on_its_batch(model, images):
    for config in (TINY, UNCERTAIN):
        weights = AESC.fold(model, None, config)
        together = AESC.score(weights, images, config)
        alone = AESC.score(weights, images[1:2], config)
        np.testing.assert_allclose(together.anomaly_map[1], alone.anomaly_map[0], rtol=1e-4, atol=1e-3)


def test_loss_is_plain_mse_and_psnr_its_logarithm():
    a, b = jnp.full((1, 2, 2, 3), 0.5), jnp.full((1, 2, 2, 3), 0.6)
    np.testing.assert_allclose(mean_squared_error(a, b), [0.01], rtol=1e-5)
    np.testing.assert_allclose(psnr(a, b), [20.0], rtol=1e-5)


def test_grey_is_the_luminance_that_opencv_computes():
    import cv2

    image = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    grey = 255 * np.asarray(to_unit(jnp.asarray(image), 1))[0, ..., 0]
    assert np.abs(grey - cv2.cvtColor(image[0], cv2.COLOR_RGB2GRAY)).max() < 0.6


@pytest.mark.parametrize(
    ("settings", "mode"),
    [([], "residual"), (["defect_contrast=low"], "uncertainty"), (["scoring=uncertainty"], "uncertainty"),
     (["scoring=residual", "defect_contrast=low"], "residual")],
)  # fmt: skip
def test_contrast_rule_offers_the_scoring_mode(tmp_path, settings, mode):
    (tmp_path / "c.yaml").write_text("")
    assert load_config(tmp_path / "c.yaml", AEScConfig, settings).scoring_mode == mode


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("image_size=250", "it must be a multiple of 64. The nearest is 256"),
        ("dropout_rates=[0, 0, 0.1]", "give six rates from 0 to below 1, one per level"),
        ("noise=stian", "Input should be 'none', 'stain'"),
        ("stain_largest=0.005", "must not exceed stain_largest"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, setting, sentence):
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"Input should be|multiple|six rates|exceed") as caught:
        load_config(tmp_path / "c.yaml", AEScConfig, [setting])
    assert sentence in str(caught.value)
