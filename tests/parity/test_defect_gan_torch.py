"""Defect-GAN against PyTorch with the same weights: networks, both players' losses, their gradients, the penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.generators.defect_gan.config import DefectGANConfig
from train.generators.defect_gan.model import DefectGAN
from train.generators.defect_gan.players import Pairs, cycles_of, draw_noise, of_critic, of_generator

torch = pytest.importorskip("torch")
import torch_defect_gan as plain  # noqa: E402

pytestmark = pytest.mark.parity

SETTINGS = {
    "image_size": 16,
    "filters": 4,
    "residual_blocks": 2,
    "spade_hidden": 5,
    "critic_filters": 4,
    "critic_layers": 2,
    "batch_size": 2,
    "epochs": 1,
    "steps_per_epoch": 1,
    "categories": ("crack", "dent"),
    "mask_size_warmup": 0.0,
}


def tensor(x, *axes):
    x = np.array(x, np.float64)
    return torch.from_numpy(x.transpose(axes).copy() if axes else x)


def nchw(x):
    return tensor(x, 0, 3, 1, 2)


def shaken(model):
    """Strengths of noise and biases start at 0, which would hide a mistake."""
    rng = np.random.default_rng(0)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), state))
    return model


def weights(model):
    """Pairs of a PyTorch module's attribute path and (our parameter, how its axes lie)."""
    conv, up, flat = (3, 2, 0, 1), (2, 3, 0, 1), ()
    found = {}

    def spade(name, ours):
        found[f"{name}.shared.0.weight"] = (ours.shared.kernel, conv)
        found[f"{name}.shared.0.bias"] = (ours.shared.bias, flat)
        for half, which in enumerate(("gamma", "beta")):
            found[f"{name}.{which}.weight"] = (ours.scale_and_shift.kernel, conv, half)
            found[f"{name}.{which}.bias"] = (ours.scale_and_shift.bias, flat, half)

    def norm(name, ours):
        if hasattr(ours, "shared"):
            spade(name, ours)
        else:
            found[f"{name}.weight"], found[f"{name}.bias"] = (ours.scale, flat), (ours.shift, flat)

    blocks = list(model.generator.blocks)
    for name, block in zip(("stem", "down1", "down2"), blocks, strict=False):
        found[f"{name}.weight"] = (block.conv.kernel, conv)
    for number, block in enumerate(blocks[:3]):
        norm(f"norms.{number}", block.norm)
    for number, block in enumerate(blocks[3:-2]):
        for half in range(2):
            found[f"trunk.{number}.conv{half + 1}.weight"] = (block.convs[half].kernel, conv)
            norm(f"trunk.{number}.norm{half + 1}", block.norms[half])
    for name, block in zip(("up1", "up2"), blocks[-2:], strict=True):
        found[f"{name}.weight"] = (block.conv.kernel, up)
        norm(f"{name}_norm", block.norm)
    for number, noise in enumerate(model.generator.noises):
        found[f"strengths.{number}"] = (noise.strength, flat)
    found["foreground.weight"] = (model.generator.foreground.kernel, conv)
    found["mask.weight"], found["mask.bias"] = (model.generator.mask.kernel, conv), (model.generator.mask.bias, flat)
    critic = {}
    for number, layer in enumerate(model.critic.convs):
        critic[f"main.{2 * number}.weight"] = (layer.kernel, conv)
        critic[f"main.{2 * number}.bias"] = (layer.bias, flat)
    critic["source.weight"], critic["classes.weight"] = (
        (model.critic.source.kernel, conv),
        (model.critic.classes.kernel, conv),
    )
    return found, critic


def as_theirs(entry, shape):
    param, axes, *half = entry
    value = np.array(param[...])
    if half:
        value = np.split(value, 2, axis=-1)[half[0]]
    return tensor(value, *axes).reshape(shape)


def copied(model, config):
    controls = config.control_channels
    generator = plain.Generator(controls, config.filters, config.residual_blocks, config.spade_hidden).double()
    critic = plain.Critic(controls, config.image_size, config.critic_filters, config.critic_layers).double()
    for network, entries in zip((generator, critic), weights(model), strict=True):
        theirs = dict(network.named_parameters())
        assert set(theirs) == set(entries)
        with torch.no_grad():
            for name, parameter in theirs.items():
                parameter.copy_(as_theirs(entries[name], parameter.shape))
    return generator, critic


def maps_of(noise, config):
    """A row of noise as the list of maps that the blocks take."""
    size, maps, used = config.image_size, [], 0
    for side in (size, size // 2, *[size // 4] * (1 + config.residual_blocks), size // 2, size):
        maps.append(tensor(noise[:, used : used + side**2].reshape(-1, 1, side, side)))
        used += side**2
    assert used == noise.shape[1]
    return maps


def pairs(config):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 2, 16, 16, 3), np.uint8)
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[:, 3:9, 4:13] = 255
    labels = np.array([[1, 0, 0], [0, 1, 0] if config.exclusive else [1, 1, 0]], np.uint8)
    return Pairs(*map(jnp.asarray, (images[0], images[1], labels, mask)))


def gradients_agree(network, entries, grads):
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, as_theirs(entries[name], parameter.shape), rtol=1e-5, atol=1e-7, err_msg=name
        )
    assert grads


@pytest.mark.parametrize(("exclusive", "form"), [(True, "matmul"), (False, "plain")])
def test_losses_and_gradients_of_both_players_are_pytorchs(exclusive, form):
    with jax.enable_x64(True):
        config = DefectGANConfig(**SETTINGS, exclusive=exclusive, form=form)
        model = shaken(DefectGAN(config, rngs=nnx.Rngs(0)))
        generator, critic = copied(model, config)
        inputs, key = pairs(config), jax.random.key(3)
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def value_and_grad(loss):
            def mean(params):
                return loss(nnx.merge(graph, params, rest, copy=True), inputs, key, config)[0].mean()

            return jax.jit(jax.value_and_grad(mean))(params)

        # As a program of its own it rounds as within the loss: 8-bit images become float32 in both
        prepared = jax.jit(lambda key: cycles_of(inputs, key, config))

        # The critic's update
        ours, grads = value_and_grad(of_critic)
        for_cycles, for_noise, for_mix = jax.random.split(key, 3)
        cycles = prepared(for_cycles)
        images, there, back = nchw(cycles.images), nchw(cycles.there), nchw(cycles.back)
        asked = tensor(cycles.asked)
        noise = draw_noise(jax.random.split(for_noise, 4), config)
        with torch.no_grad():
            drawn = plain.compose(images, *generator(images, there, maps_of(noise, config)))
        real = torch.cat([images[2:], images[:2]])
        share = nchw(jax.random.uniform(for_mix, (4, 1, 1, 1)))
        theirs = plain.critic_loss(critic, real, drawn, asked, share, exclusive=exclusive)
        np.testing.assert_allclose(ours, theirs.item(), rtol=1e-7)
        theirs.backward()
        of_grads = nnx.merge(graph, grads, rest)
        gradients_agree(critic, weights(of_grads)[1], grads)
        assert float(total(grads["generator"])) == 0  # what is drawn is data to the critic

        # The generator's
        ours, grads = value_and_grad(of_generator)
        for_cycles, for_there, for_back = jax.random.split(key, 3)
        cycles = prepared(for_cycles)
        images, there, back = nchw(cycles.images), nchw(cycles.there), nchw(cycles.back)
        noises = [maps_of(draw_noise(jax.random.split(k, 4), config), config) for k in (for_there, for_back)]
        theirs = plain.generator_loss(
            generator, critic, images, tensor(cycles.asked), there, back, noises, exclusive=exclusive
        )
        np.testing.assert_allclose(ours, theirs.item(), rtol=1e-7)
        theirs.backward()
        gradients_agree(generator, weights(nnx.merge(graph, grads, rest))[0], grads)


def total(tree):
    return sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree))


def test_the_papers_networks_have_the_sheets_sizes():
    config = DefectGANConfig(categories=tuple("abcdef"))
    shapes = nnx.eval_shape(lambda: DefectGAN(config, rngs=nnx.Rngs(0)))
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part, nnx.Param)))
        for part in (shapes.generator, shapes.critic)
    ]
    theirs = [
        sum(p.numel() for p in network.parameters()) for network in (plain.Generator(7), plain.Critic(7, size=128))
    ]
    assert counts == theirs
