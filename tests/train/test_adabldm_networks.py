"""AdaBLDM's networks: what must hold whatever their weights are. What they compute is held in tests/parity."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from train.generators.adabldm.autoencoder import Posterior
from train.generators.adabldm.layers import GroupNorm
from train.generators.adabldm.model import AdaBLDM
from train.generators.adabldm.noise_schedule import ddim, ddim_step, noise_schedule, noised, predicted_latent
from train.generators.adabldm.residual import ResidualBlock, rematerialised
from train.generators.adabldm.sizes import SMALL, TINY, Size
from train.generators.adabldm.text import WordSpec
from train.generators.adabldm.trimap import TrimapEncoder, TrimapSpec
from train.generators.adabldm.unet import Control, Denoiser, UNetSpec

UNET = UNetSpec(
    width=8, multipliers=(1, 2), residual_blocks=1, transformers=(False, True), heads=2, context=8, groups=4
)

CHEAP = {"xla_backend_optimization_level": 0}  # to compile what runs once


def shaken(model, seed: int = 0):
    """No weight is 0."""
    generator = np.random.default_rng(seed)

    def moved(x):
        return jnp.asarray(np.asarray(x) + 0.1 * generator.standard_normal(x.shape, np.float32))

    nnx.update(model, jax.tree.map(moved, nnx.state(model)))
    return model


def inputs(size: int = 8):
    generator = np.random.default_rng(1)
    latent, context = generator.standard_normal((2, size, size, 4)), generator.standard_normal((2, 3, 8))
    return jnp.asarray(latent, jnp.float32), jnp.array([3, 700]), jnp.asarray(context, jnp.float32)


def test_a_fresh_trimap_encoder_adds_nothing():
    encoder = TrimapEncoder(UNET, TrimapSpec((2, 3)), rngs=nnx.Rngs(1))
    encoder.start_from(shaken(Denoiser(UNET, rngs=nnx.Rngs(0))))
    latent, step, context = inputs()
    trimap = jnp.zeros((2, 16, 16)).at[:, 2:7, 3:9].set(1.0)
    control = jax.jit(encoder, compiler_options=CHEAP)(latent, trimap, step, context)
    assert [skip.shape[1:] for skip in control.skips] == [(8, 8, 8), (8, 8, 8), (4, 4, 8), (4, 4, 16)]
    assert not any(np.any(skip) for skip in (*control.skips, control.middle))


def test_the_trimap_encoder_keeps_its_own_weights():
    denoiser, encoder = Denoiser(UNET, rngs=nnx.Rngs(0)), TrimapEncoder(UNET, TrimapSpec((2, 3)), rngs=nnx.Rngs(1))
    encoder.start_from(denoiser)
    before = np.asarray(denoiser.encoder.conv_in.kernel[...])
    np.testing.assert_array_equal(encoder.encoder.conv_in.kernel[...], before)
    encoder.encoder.conv_in.kernel[...] = 2 * encoder.encoder.conv_in.kernel[...]
    np.testing.assert_array_equal(denoiser.encoder.conv_in.kernel[...], before)


def test_control_must_have_a_map_for_every_skip():
    denoiser = Denoiser(UNET, rngs=nnx.Rngs(0))
    few = Control((jnp.zeros((2, 8, 8, 8)),), jnp.zeros((2, 4, 4, 16)))
    with pytest.raises(ValueError, match="zip"):
        jax.eval_shape(lambda: denoiser(*inputs(), few))


@pytest.mark.parametrize("size", [TINY, SMALL], ids=["tiny", "small"])
def test_sizes_fit_together_and_weights_in_bfloat16_compute_in_bfloat16(size):
    """By shapes alone."""
    model = AdaBLDM(size, labels=3, rngs=None)
    graph, state = nnx.split(model)
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), state)

    def chain(state, images, trimap, step, ids):
        model = nnx.merge(graph, state)
        latent, context = model.autoencoder.encode(images), model.text(ids)
        control = model.trimap_encoder(latent, trimap, step, context)
        noise = model.denoiser(latent, step, context, control)
        return latent, noise, model.autoencoder.decode(noise)

    shapes = ((3,), (), None)
    images, trimap = (jnp.zeros((2, size.image, size.image, *more), jnp.bfloat16) for more in shapes[:2])
    ids = jnp.zeros((2, 1 if size is SMALL else 16), jnp.int32)
    latent, noise, decoded = jax.eval_shape(chain, half, images, trimap, jnp.zeros(2, jnp.int32), ids)
    assert noise.shape == latent.shape == (2, size.latent, size.latent, size.unet.latent_channels)
    assert decoded.shape == images.shape
    assert {x.dtype for x in (latent, noise, decoded)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": 36}, "The image's side is 36, but these networks need a multiple of 8 pixels."),
        ({"text": WordSpec(8, 4, 12)}, "The channels of the denoiser's context: found 64, but .* need 12."),
        ({"trimap": TrimapSpec()}, "The factor of the trimap embedding: found 8, but .* need 4."),
        (
            {"autoencoder": replace(TINY.autoencoder, latent_channels=3)},
            "latent channels of the denoiser: found 4, .* 3.",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)
    assert isinstance(TINY, Size)


def test_a_level_too_few_is_refused():
    with pytest.raises(ValueError, match="4 multipliers, but transformers=.* says of 2 levels"):
        UNetSpec(transformers=(True, False))
    with pytest.raises(ValueError, match="5 do not divide 8"):
        Denoiser(replace(UNET, heads=5, transformers=(True, False)), rngs=None)
    with pytest.raises(ValueError, match="groups, but 3 do not divide 8"):
        GroupNorm(8, 3, 1e-5, rngs=None)


def test_rematerialised_blocks_have_the_same_gradients():
    block = shaken(ResidualBlock(4, 6, embedding=3, groups=2, epsilon=1e-5, rngs=nnx.Rngs(0)))
    x, embedding = jnp.linspace(-1, 1, 2 * 4 * 4 * 4).reshape(2, 4, 4, 4), jnp.ones((2, 3))

    def gradients(enabled: bool):
        graph, state = nnx.split(block)
        loss = jax.grad(lambda s: jnp.sum(rematerialised(nnx.merge(graph, s), enabled, x, embedding) ** 2))
        return jax.tree.leaves(jax.jit(loss, compiler_options=CHEAP)(state))

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-4)


def test_group_norm_of_a_large_mean_is_exact():
    norm = GroupNorm(4, 2, 0.0, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(norm(jnp.asarray(x + 1000)), norm(jnp.asarray(x)), atol=2e-3)


def test_the_same_seed_draws_the_same_weights():
    one, other, third = (Denoiser(UNET, rngs=nnx.Rngs(seed)) for seed in (4, 4, 5))
    kernels = [np.asarray(d.encoder.down[0].residuals[0].conv1.kernel[...]) for d in (one, other, third)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1
    assert np.std(kernels[0]) == pytest.approx((9 * 8) ** -0.5, rel=0.1)


def test_a_draw_from_the_posterior_has_its_moments():
    mean, log_variance = jnp.full((1, 40, 40, 4), 2.0), jnp.full((1, 40, 40, 4), 2 * np.log(0.5))
    drawn = Posterior(mean, log_variance).draw(jax.random.key(0))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.03)


class TestNoise:
    schedule = noise_schedule()

    def test_it_starts_almost_clean_and_ends_almost_as_noise(self):
        alpha_bar = self.schedule.alpha_bar
        assert alpha_bar[0] == pytest.approx(1 - 0.00085)
        assert alpha_bar[-1] == pytest.approx(0.00466, abs=1e-5)
        assert np.all(np.diff(alpha_bar) < 0)

    @given(seed=st.integers(0, 99), count=st.sampled_from([5, 10, 50]), data=st.data())
    def test_with_the_true_noise_every_step_stays_on_the_path(self, seed, count, data):
        """Of a noised latent DDIM, told its noise, makes one less noised; the clean one it predicts is the true one."""
        steps = ddim(self.schedule, count)
        index = data.draw(st.integers(count // 2, count - 1))
        latent, noise = (
            jnp.asarray(a, jnp.float32) for a in np.random.default_rng(seed).standard_normal((2, 2, 2, 3, 4))
        )
        before, after = steps.alpha_bar[index], steps.alpha_bar_after[index]
        noisy = noised(latent, noise, before)
        np.testing.assert_allclose(predicted_latent(noisy, noise, before), latent, atol=1e-4)
        np.testing.assert_allclose(ddim_step(noisy, noise, before, after), noised(latent, noise, after), atol=1e-4)

    def test_each_image_may_have_its_own_step(self):
        latent, noise = jnp.ones((2, 1, 1, 1)), jnp.full((2, 1, 1, 1), 2.0)
        both = noised(latent, noise, jnp.array([1.0, 0.0]))
        np.testing.assert_array_equal(both.ravel(), [1.0, 2.0])

    def test_the_last_step_ends_at_the_first_training_step(self):
        steps = ddim(self.schedule, 50)
        assert steps.step[0] == 981
        assert steps.step[-1] == 1
        assert steps.alpha_bar_after[-1] == self.schedule.alpha_bar[0]

    @pytest.mark.parametrize("count", [0, 1000])
    def test_counts_that_are_no_sampler_are_refused(self, count):
        with pytest.raises(ValueError, match=f"takes 1 to 999 of the 1000 training steps; found {count}"):
            ddim(self.schedule, count)
