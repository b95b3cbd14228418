"""f-AnoGAN: layers as the sheet counts them, losses at known points, which phase moves what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.config import ConfigError, find_config, load_config
from train.detectors.detector import parameter_count
from train.detectors.f_anogan import F_ANOGAN, FAnoGANConfig
from train.detectors.f_anogan.loss import critic_loss, encoder_loss, generator_loss, gradient_penalty
from train.detectors.f_anogan.model import FAnoGAN, Judged, doubled, halved
from train.epochs import initial_state, training_steps


def tiny(*overrides: str):
    return load_config(find_config("f_anogan", "tiny"), FAnoGANConfig, overrides)


def test_the_features_are_8192_numbers_at_full_width():
    model = nnx.eval_shape(lambda: FAnoGAN(128, 64, 1, rngs=nnx.Rngs(0)))
    assert model.critic.head.kernel.shape == (8192, 1)
    assert model.encoder.head.kernel.shape == (8192, 128)
    assert model.generator.project.kernel.shape == (128, 8192)
    convs = [part for _, part in nnx.iter_graph(model.critic) if isinstance(part, nnx.Conv)]
    assert parameter_count(model.critic) == sum(
        np.prod(conv.kernel.shape) + np.prod(conv.bias.shape) for conv in convs
    ) + 8192 + 1 + 2 * 2 * (64 + 128 + 256 + 512)  # two layer norms in each of four blocks


def test_shapes_and_ranges():
    model = nnx.jit(lambda: FAnoGAN(8, 1, 3, rngs=nnx.Rngs(0)))()
    model.eval()
    x = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3), minval=-1)
    again, z, judged = nnx.jit(lambda model: (model.again(x), model.encoder(x), model.critic(x)))(model)
    assert again.shape == x.shape
    assert float(jnp.abs(again).max()) <= 1
    assert z.shape == (2, 8)
    assert float(jnp.abs(z).max()) <= 1
    assert judged.feature.shape == (2, 128)


def test_doubling_and_halving():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(doubled(x)[0, :, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 2))))
    np.testing.assert_array_equal(halved(x)[0, :, :, 0], [[1.5]])
    np.testing.assert_array_equal(halved(doubled(x)), x)


def test_losses_at_known_points():
    np.testing.assert_allclose(critic_loss(jnp.array([3.0]), jnp.array([1.0]), jnp.array([0.5]), 10.0), [3])
    np.testing.assert_allclose(generator_loss(jnp.array([1.5])), [-1.5])
    x, f = jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 5))
    loss = encoder_loss(x, Judged(f[:, 0], f), x + 2, Judged(f[:, 0], f + 3), 0.5)
    np.testing.assert_allclose(loss, [4 + 0.5 * 9])


def test_the_penalty_of_a_linear_critic_is_known():
    """Its slope is w everywhere: |w| = 3, so (3 - 1)^2; and 0 where |w| = 1."""
    good, drawn = jnp.zeros((2, 3, 3, 1)), jnp.ones((2, 3, 3, 1))
    for scale, expected in ((1.0, 4.0), (1 / 3, 0.0)):
        penalty = gradient_penalty(lambda x, s=scale: s * x.sum(axis=(1, 2, 3)), good, drawn, jax.random.key(0))
        np.testing.assert_allclose(penalty, expected, atol=1e-5)


@pytest.mark.slow
def test_each_phase_moves_its_own_networks():
    """The generator's batch statistics too stand still while the encoder is trained."""
    config = tiny("image_size=64")
    graph, state = initial_state(F_ANOGAN, config)
    resident = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)), jnp.uint8)
    for phase, moves in zip(F_ANOGAN.phases(config), ({"critic", "generator"}, {"encoder"}), strict=True):
        before = jax.tree.map(np.asarray, (state.params, state.rest))
        steps = training_steps(F_ANOGAN, config, graph, None, phase)
        state, metrics = steps(state, jnp.arange(8)[None], resident)
        assert np.isfinite(metrics["loss"]).all()
        after = jax.tree.map(np.asarray, (state.params, state.rest))
        for name in ("critic", "generator", "encoder"):
            pairs = zip(jax.tree.leaves(before[0][name]), jax.tree.leaves(after[0][name]), strict=True)
            assert any((a != b).any() for a, b in pairs) == (name in moves), name
        pairs = zip(jax.tree.leaves(before[1]["generator"]), jax.tree.leaves(after[1]["generator"]), strict=True)
        assert any((a != b).any() for a, b in pairs) == ("generator" in moves)
    counts = {name: int(jax.tree.leaves(state.opt_state[name])[0]) for name in ("critic", "generator")}
    assert counts == {"critic": 2, "generator": 1}  # critic_steps is 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["encoder_epochs=3"], "encoder_epochs is 3 of 3 epochs, so none is left to train the generator"),
        (["image_size=60"], "this network draws squares of 64 px. Set image_size=64, or more"),
    ],
)
def test_a_wrong_setting_is_answered(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny(*overrides)


def test_every_config_is_valid():
    for name in ("tiny", "cpu", "paper"):
        config = load_config(find_config("f_anogan", name), FAnoGANConfig)
        assert sum(phase.epochs for phase in F_ANOGAN.phases(config)) == config.epochs
