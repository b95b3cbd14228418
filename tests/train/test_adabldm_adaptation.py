"""AdaBLDM's online adaptation against a plain loop of optax, and what it is for: the background comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from train.generators.adabldm.adaptation import (
    Adaptation,
    InTurn,
    adapt,
    adapter_of,
    background_fidelity,
    decoder_of,
    terms_of,
)
from train.generators.adabldm.autoencoder import KLAutoencoder, KLSpec

SPEC = KLSpec(width=8, multipliers=(1, 2), residual_blocks=1, groups=4)
SETTINGS = Adaptation(iterations=12, learning_rate=2e-3, w_background=30.0)


def linear(params, latent):
    """Cells of 2 x 2 pixels, each channel a sum of the latent's."""
    return (latent @ params["kernel"] + params["bias"]).repeat(2, axis=1).repeat(2, axis=2)


def task(n: int = 2):
    random = np.random.default_rng(3)
    params = {"kernel": random.standard_normal((4, 3)), "bias": random.standard_normal(3)}
    mask = np.zeros((n, 8, 8))
    mask[0, 2:5, 3:6] = 1
    mask[1:, :, 1] = 1
    arrays = params, random.uniform(-1, 1, (n, 8, 8, 3)), mask, random.standard_normal((n, 4, 4, 4))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)


def by_hand(params, normal, mask, latent):
    """The sheet's sums, one image, its decoder moved by optax's AdamW as PyTorch's default has it."""
    m, optimizer = mask[..., None], optax.adamw(2e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)
    x_fg, state, seen = linear(params, latent[None])[0], optimizer.init(params), []

    def parts(params):
        x = linear(params, latent[None])[0]
        return ((m * x_fg - m * x) ** 2).sum() / x.size, (((1 - m) * normal - (1 - m) * x) ** 2).sum() / x.size

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: parts(p)[0] + 30 * parts(p)[1])(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, parts(params)

    for _ in range(12):
        params, state, terms = step(params, state)
        seen.append(terms)
    return params, np.array(seen)


@pytest.mark.parametrize("machine", ["gpu", "cpu"])
def test_every_image_is_adapted_as_a_plain_loop_adapts_it_alone(machine, monkeypatch):
    params, normal, mask, latent = task()
    monkeypatch.setattr(jax, "default_backend", lambda: machine)
    program = adapter_of(linear, SETTINGS)
    assert isinstance(program, InTurn) == (machine == "cpu")
    result = program(params, normal, mask, latent)
    for n in range(2):
        moved, seen = by_hand(params, normal[n], mask[n], latent[n])
        expected = linear(moved, latent[n : n + 1])[0]
        np.testing.assert_allclose(result.image[n], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(result.terms.defect[n], seen[:, 0], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(result.terms.background[n], seen[:, 1], rtol=1e-4)
    np.testing.assert_allclose(result.before, linear(params, latent), rtol=1e-5)
    assert (np.asarray(result.terms.defect)[:, 0] == 0).all(), "x_fg is decoded before the adaptation"
    assert (np.asarray(result.terms.defect)[:, -1] > 0).all(), "and does not follow it"


def test_what_it_started_from_is_left_as_it_was():
    params, normal, mask, latent = task()
    before = jax.tree.map(np.asarray, params)
    in_turn = InTurn(linear, SETTINGS)
    first = in_turn(params, normal[:1], mask[:1], latent[:1])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    again = in_turn(params, normal, mask, latent)
    np.testing.assert_array_equal(first.image[0], again.image[0])


def test_the_published_numbers_are_the_default():
    assert Adaptation() == Adaptation(200, 1e-4, 0.01, 100.0)


def test_a_decoder_brings_the_background_back_and_nothing_else_moves():
    autoencoder = KLAutoencoder(SPEC, rngs=nnx.Rngs(0))
    decode, params = decoder_of(autoencoder)
    random = np.random.default_rng(1)
    normal = jnp.asarray(np.tanh(random.standard_normal((1, 8, 8, 3))), jnp.float32)
    latent = jnp.asarray(random.standard_normal((1, 4, 4, 4)), jnp.float32)
    mask = jnp.zeros((1, 8, 8)).at[:, 1:3, 1:3].set(1)
    result = InTurn(decode, Adaptation(iterations=40, learning_rate=2e-3))(params, normal, mask, latent)
    terms = result.terms.background[0]
    assert terms[-1] < terms[0] / 4
    assert result.fidelity.psnr[0] > result.fidelity_before.psnr[0] + 3
    assert result.fidelity.mean_absolute_error[0] < result.fidelity_before.mean_absolute_error[0] * 2 / 3
    decoded = jax.jit(lambda whole, latent: whole.decode(latent))(autoencoder, latent)
    np.testing.assert_allclose(result.before, decoded, atol=1e-5)
    assert {path[0] for path, _ in nnx.to_flat_state(params)} == {"decoder"}


def test_terms_are_means_over_all_pixels_and_fidelity_is_of_the_outside_alone():
    normal, image = jnp.zeros((4, 4, 3)), jnp.full((4, 4, 3), 0.2)
    mask = jnp.zeros((4, 4)).at[:2, :2].set(1)
    terms = terms_of(image, jnp.full((4, 4, 3), 0.5), normal, mask)
    np.testing.assert_allclose(terms, (0.09 * 4 / 16, 0.04 * 12 / 16), rtol=1e-5)
    wrong_inside = jnp.where(mask[..., None] > 0, 0.9, image)
    found = background_fidelity(wrong_inside, normal, mask)
    np.testing.assert_allclose(found, (20.0, 0.1), rtol=1e-5)  # a tenth of the range from -1 to 1
    exact = background_fidelity(normal, normal, jnp.ones((4, 4)))
    np.testing.assert_allclose(exact, (120.0, 0.0), atol=1e-4)


def test_no_iterations_leave_the_decoder_alone():
    params, normal, mask, latent = task()
    none = Adaptation(iterations=0)
    same, terms = adapt(linear, params, normal[0], mask[0], latent[0], none)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert terms.defect.shape == (0,)
    in_turn = InTurn(linear, none)(params, normal, mask, latent)
    np.testing.assert_array_equal(in_turn.image, in_turn.before)
