"""AdaBLDM's sampler against a plain loop in float64, and what must hold of it whatever the networks are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.generators.adabldm import sampler
from train.generators.adabldm.model import AdaBLDM
from train.generators.adabldm.noise_schedule import ddim, noise_schedule
from train.generators.adabldm.sampler import Asked, Sampling, cells_of, held_to, sample
from train.generators.adabldm.sizes import TINY
from train.generators.adabldm.stages import PRESETS, Stages

SIDE, FACTOR = 16, 2


class Blocks(NamedTuple):
    """An autoencoder of means over blocks of 2 x 2."""

    gain: Any

    def encode(self, images):
        n, y, x, c = images.shape
        return self.gain * images.reshape(n, y // 2, 2, x // 2, 2, c).mean(axis=(2, 4))

    def decode(self, latent):
        return latent.repeat(2, axis=1).repeat(2, axis=2) / self.gain


class StandIn(NamedTuple):
    """Networks whose answer hangs on all that they are told; the same in NumPy and JAX."""

    autoencoder: Blocks
    shift: Any

    def trimap_encoder(self, latent, trimap, step, empty):
        return 0.3 * trimap[:, ::2, ::2, None] + 0.1 * empty.mean(axis=(1, 2))[:, None, None, None] + 0 * latent

    def denoiser(self, latent, step, context, control):
        time, told = step[:, None, None, None] / 1000, context.mean(axis=(1, 2))[:, None, None, None]
        far = 0.3 * latent[:, ::-1, ::-1]  # a cell hangs on others, as with convolutions
        return 1.1 * latent / (1 + latent**2) + far + time + 0.2 * told + control + self.shift


def networks(of=jnp.asarray):
    return StandIn(Blocks(of(0.8)), of(0.05))


def task(n: int = 2):
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    trimap = np.full((2, SIDE, SIDE), 0.5, np.float32)
    trimap[0, 4:7, 6:9] = 1
    trimap[1:, 10:11, 2:9] = 1
    prompt, empty = random.standard_normal((2, 2, 3, 4)).astype(np.float32)
    return image[:n], Asked(*(jnp.asarray(part[:n]) for part in (trimap, prompt, empty)))


KEYS = jax.random.split(jax.random.key(7), 2)


NOISE = jax.jit(sampler.fresh_noise, static_argnums=(1, 3))


def sampled(sampling: Sampling, n: int = 2, keys=KEYS, *, in_turn: bool = False):
    image, asked = task(n)

    def way(model, image, asked, keys):
        return sample(model, asked, held_to(model.autoencoder, image, asked.trimap), keys, sampling, in_turn=in_turn)

    return (way if in_turn else jax.jit(way))(networks(), jnp.asarray(image), asked, keys)


def by_hand(sampling: Sampling) -> np.ndarray:
    """The sheet's loop, step after step, in float64."""
    image, asked = task()
    image, (trimap, prompt, empty) = image.astype(np.float64), (np.asarray(a, np.float64) for a in asked[:3])
    model, steps = networks(float), ddim(noise_schedule(), sampling.stages.steps)
    normal = model.autoencoder.encode(image)
    inside = (trimap == 1)[..., None]
    coarse = np.pad(inside[:, ::2, ::2, 0], ((0, 0), (2, 2), (2, 2)))
    m = np.zeros((2, 8, 8, 1), bool)
    for y in range(8):
        for x in range(8):
            m[:, y, x, 0] = coarse[:, y : y + 5, x : x + 5].any(axis=(1, 2))

    def noise(purpose, i):
        return np.asarray(NOISE(KEYS, purpose, i, (8, 8, 3)), np.float64)

    def q(z, e, alpha_bar):
        return np.sqrt(alpha_bar) * z + np.sqrt(1 - alpha_bar) * e

    z = noise(sampler.START, 0)
    for i, edits in enumerate(sampling.stages.edits):
        a, after = (float(share[i]) for share in (steps.alpha_bar, steps.alpha_bar_after))
        t = np.full(2, float(steps.step[i]))
        if edits.latent:
            z = np.where(m, z, q(normal, noise(sampler.LATENT_EDIT, i), a))
        control = model.trimap_encoder(z, trimap, t, empty)
        without, told = (model.denoiser(z, t, context, control) for context in (empty, prompt))
        e = without + sampling.guidance * (told - without)
        clean = (z - np.sqrt(1 - a) * e) / np.sqrt(a)
        if edits.image:
            x = np.where(inside, model.autoencoder.decode(clean), image)
            again = a if sampling.renoise == "current" else 1.0 if i + 1 == len(steps.step) else after
            z = q(model.autoencoder.encode(x), noise(sampler.IMAGE_EDIT, i), again)
        else:
            z = q(clean, e, after)
    return z


@pytest.mark.parametrize(
    ("sampling", "in_turn"),
    [
        (Sampling(PRESETS["seed_countdown"], guidance=1.5), False),
        (Sampling(PRESETS["official_code"], guidance=1.0), True),
        (Sampling(Stages(4, 5, 1), guidance=0.7, renoise="prev"), False),
    ],
    ids=["countdown scanned", "code in turn", "prev scanned"],
)
def test_a_sample_is_that_of_a_plain_loop_in_float64(sampling, in_turn):
    expected = by_hand(sampling)
    assert np.abs(expected).max() < 100
    np.testing.assert_allclose(sampled(sampling, in_turn=in_turn).latent, expected, rtol=2e-4, atol=2e-4)


def test_outside_the_defect_a_latent_edit_leaves_the_noised_normal_image():
    """Seen in what the denoiser is given."""
    image, asked = task()
    model, seen = networks(), []

    class Watched(StandIn):
        def denoiser(self, latent, step, context, control):
            jax.debug.callback(lambda z, t: seen.append((int(t[0]), np.asarray(z))), latent, step, ordered=True)
            return StandIn.denoiser(self, latent, step, context, control)

    held = held_to(model.autoencoder, jnp.asarray(image), asked.trimap)
    sampling = Sampling(Stages(2, 3, 0), guidance=1.0)
    jax.block_until_ready(sample(Watched(*model), asked, held, KEYS, sampling))
    jax.effects_barrier()
    way, outside = sampler.way_of(sampling), np.asarray(held.cells) == 0
    assert [t for t, _ in seen] == way.step.tolist() == [801, 601, 401, 201, 1]
    for i, (_, latent) in enumerate(seen):
        noise = NOISE(KEYS, sampler.LATENT_EDIT, i, (8, 8, 3))
        share = float(way.alpha_bar[i])
        q = np.sqrt(share) * np.asarray(held.latent) + np.sqrt(1 - share) * np.asarray(noise)
        near = np.isclose(latent, q, atol=1e-5).all(axis=-1)
        assert near[outside].all() == (i >= 2)
        assert not near[~outside].any()


def test_an_image_does_not_depend_on_its_batch():
    sampling = Sampling(Stages(2, 2, 2), guidance=2.0)
    both, first = sampled(sampling).latent, sampled(sampling, 1, KEYS[:1]).latent
    np.testing.assert_allclose(both[:1], first, rtol=1e-5, atol=1e-5)
    other = sampled(sampling, keys=KEYS[jnp.array([0, 0])]).latent
    np.testing.assert_allclose(both[:1], other[:1], rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(both - other))[1].max() > 0.1


def test_only_previous_noise_ends_on_the_normal_image():
    """Outside: an identity of an autoencoder gives it back, but for the noise of std 0.04 of the published way."""
    image, asked = task()
    normal = networks().autoencoder.encode(jnp.asarray(image))
    outside = np.asarray(cells_of((asked.trimap == 1).astype(jnp.float32), FACTOR)) == 0
    ends = {
        renoise: (sampled(Sampling(Stages(2, 0, 2), 1.0, renoise)).latent - normal)[outside]
        for renoise in ("current", "prev")
    }
    assert np.abs(ends["prev"]).max() < 1e-6
    assert 0.03 < ends["current"].std() < 0.05


def test_every_stage_shows_where_it_ended():
    result = sampled(Sampling(Stages(2, 2, 1), guidance=1.0))
    assert len(result.stages) == 3
    np.testing.assert_array_equal(result.stages[-1], result.latent)
    assert np.abs(np.asarray(result.stages[0] - result.stages[1])).max() > 0.1


def test_a_defect_between_the_cells_is_not_lost():
    thin = np.zeros((2, 32, 32), np.float32)
    thin[0, :, 5] = 1  # of cells of 4 pixels: misses the first of each
    thin[1, 8, 8] = 1
    cells = np.asarray(cells_of(jnp.asarray(thin), 4))
    assert cells[0].sum() == 8 * 4 and cells[0, :, :4].all()
    assert cells[1].sum() == 25 and cells[1, :5, :5].all()


def test_the_real_networks_are_asked_as_they_answer():
    """By shapes alone: `AdaBLDM` is what the sampler takes, in bfloat16 around latents in float32."""
    model = AdaBLDM(TINY, rngs=None)
    for network in (model.denoiser, model.trimap_encoder):
        nnx.update(network, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), nnx.state(network)))

    def way(model, image, trimap, prompt, empty, keys):
        held = held_to(model.autoencoder, image, trimap)
        return sample(model, Asked(trimap, prompt, empty), held, keys, Sampling(Stages(4, 5, 1)))

    context = jnp.zeros((2, 16, 64), jnp.bfloat16)
    image, trimap = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 32, 32))
    result = jax.eval_shape(way, model, image, trimap, context, context, KEYS)
    assert result.latent.shape == (2, 8, 8, 4)
    assert result.latent.dtype == jnp.float32
