"""AnoGAN and f-AnoGAN against PyTorch: networks, losses, a training step's gradients, an encoder's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.detectors.anogan.layout import LAYOUTS
from train.detectors.anogan.loss import discriminator_loss, generator_loss
from train.detectors.anogan.model import AnoGAN
from train.detectors.f_anogan.loss import gradient_penalty
from train.detectors.f_anogan.model import Down, LayerNorm, Up, batch_norm

pytestmark = pytest.mark.parity


def nchw(x):
    import torch

    return torch.from_numpy(np.array(x, np.float32)).permute(0, 3, 1, 2).contiguous()


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def kernel(x, transposed=False):
    """[k, k, in, out] to PyTorch's [out, in, k, k], or [in, out, k, k] of a transposed convolution."""
    import torch

    return torch.from_numpy(np.array(x, np.float32).transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1)).copy())


def seed_networks(model):
    """The seed's code as its author wrote it, with this model's weights."""
    import torch
    from torch import nn

    def norm(ours):
        layer = nn.BatchNorm2d(ours.scale.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.array(ours.scale[...])))
            layer.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))
        return layer

    def up(ours, stride, padding):
        c, o, k = ours.shape[2], ours.shape[3], ours.shape[0]
        layer = nn.ConvTranspose2d(c, o, k, stride, padding, bias=False)
        layer.weight.data = kernel(ours, transposed=True)
        return layer

    def down(ours):
        layer = nn.Conv2d(ours.shape[2], ours.shape[3], 4, 2, 1, bias=False)
        layer.weight.data = kernel(ours)
        return layer

    g, d = model.generator, model.discriminator
    latent = g.project.shape[0]
    first = g.project[...].reshape(latent, 4, 4, -1).transpose(1, 2, 0, 3)
    kernels = [conv.kernel[...] for conv in g.convs]
    generator = nn.Sequential(
        *(up(first, 1, 0), norm(g.norms[0]), nn.ReLU()),
        *(up(kernels[0], 2, 1), norm(g.norms[1]), nn.ReLU()),
        *(up(kernels[1], 2, 1), norm(g.norms[2]), nn.ReLU()),
        *(up(kernels[2], 2, 1), nn.Tanh()),
    )
    features = nn.Sequential(
        *(down(d.convs[0].kernel[...]), nn.LeakyReLU(0.2)),
        *(down(d.convs[1].kernel[...]), norm(d.norms[0]), nn.LeakyReLU(0.2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    head = nn.Linear(d.head.kernel.shape[0], 1)
    head.weight.data = torch.from_numpy(np.array(d.head.kernel[...]).T.copy())
    head.bias.data = torch.from_numpy(np.array(d.head.bias[...]))
    return generator, nn.Sequential(features, head)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["plain", "matmul"])
def test_the_seeds_networks(form, training):
    import torch

    model = AnoGAN(LAYOUTS["seed"], 16, 8, 1, form=form, rngs=nnx.Rngs(0))
    generator, discriminator = (network.train(training) for network in seed_networks(model))
    (model.train if training else model.eval)()
    z = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    theirs, ours = generator(torch.from_numpy(z)[:, :, None, None]), model.generator(jnp.asarray(z))
    np.testing.assert_allclose(ours, nhwc(theirs), atol=2e-5)
    judged = model.discriminator(ours)
    np.testing.assert_allclose(judged.feature, discriminator[0](theirs).detach(), atol=2e-5)
    np.testing.assert_allclose(judged.logit, discriminator(theirs).detach()[:, 0], atol=2e-5)
    if training:  # one update of the running mean, momentum as PyTorch's
        np.testing.assert_allclose(model.generator.norms[0].mean[...], generator[1].running_mean, atol=1e-5)


def test_losses_and_their_gradients_are_those_of_binary_cross_entropy():
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    good, drawn = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32) * 3
    ones, zeros = torch.ones(6), torch.zeros(6)
    theirs = [torch.from_numpy(x).requires_grad_() for x in (good, drawn)]
    loss = cross_entropy(theirs[0], ones, reduction="sum") + cross_entropy(theirs[1], zeros, reduction="sum")
    loss.backward()
    value, gradients = jax.value_and_grad(lambda g, d: discriminator_loss(g, d).sum(), (0, 1))(
        *map(jnp.asarray, (good, drawn))
    )
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    for ours, x in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(ours, x.grad, rtol=1e-4, atol=1e-6)
    expected = cross_entropy(torch.from_numpy(drawn), ones, reduction="none")
    np.testing.assert_allclose(generator_loss(jnp.asarray(drawn)), expected, rtol=1e-4, atol=1e-6)


def conv(ours):
    import torch

    k = ours.kernel.shape[0]
    layer = torch.nn.Conv2d(ours.kernel.shape[2], ours.kernel.shape[3], k, padding=k // 2)
    layer.weight.data = kernel(ours.kernel[...])
    layer.bias.data = torch.from_numpy(np.array(ours.bias[...]))
    return layer


def test_residual_blocks():
    """As the TensorFlow code orders them: upsampling before the shortcut's 1 x 1, pooling before it too."""
    import torch
    from torch.nn import functional as f

    x = np.random.default_rng(2).normal(size=(3, 8, 8, 4)).astype(np.float32)
    up, down = Up(4, 6, nnx.Rngs(0)), Down(4, 6, LayerNorm, nnx.Rngs(1))
    theirs = nchw(x)
    larger = f.interpolate(f.relu(f.batch_norm(theirs, None, None, training=True)), scale_factor=2)
    y = f.relu(f.batch_norm(conv(up.conv_in)(larger), None, None, training=True))
    expected = conv(up.conv_out)(y) + conv(up.shortcut)(f.interpolate(theirs, scale_factor=2))
    np.testing.assert_allclose(up(jnp.asarray(x)), nhwc(expected), atol=1e-4)

    y = conv(down.conv_in)(f.relu(f.layer_norm(theirs, theirs.shape[1:])))
    y = f.avg_pool2d(conv(down.conv_out)(f.relu(f.layer_norm(y, y.shape[1:]))), 2)
    expected = y + conv(down.shortcut)(f.avg_pool2d(theirs, 2))
    np.testing.assert_allclose(down(jnp.asarray(x)), nhwc(expected), atol=1e-4)
    assert torch.isfinite(expected).all()


def test_the_gradient_penalty_is_that_of_a_second_derivative():
    """Of a small critic, and its own gradient with respect to the critic's weights."""
    import torch

    generator = np.random.default_rng(3)
    good, drawn = generator.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)
    w = generator.normal(size=(18, 1)).astype(np.float32)

    def value(w):
        return lambda x: jnp.tanh(x.reshape(x.shape[0], -1) @ w)[:, 0]

    key = jax.random.key(0)

    def of_weights(w):
        return gradient_penalty(value(w), jnp.asarray(good), jnp.asarray(drawn), key).mean()

    ours, gradient = jax.value_and_grad(of_weights)(jnp.asarray(w))
    share = torch.from_numpy(np.array(jax.random.uniform(key, (4, 1, 1, 1))))
    weights = torch.from_numpy(w).requires_grad_()
    between = (torch.from_numpy(good) + share * torch.from_numpy(drawn - good)).requires_grad_()
    out = torch.tanh(between.reshape(4, -1) @ weights).sum()
    (slope,) = torch.autograd.grad(out, between, create_graph=True)
    penalty = ((slope.reshape(4, -1).norm(dim=1) - 1) ** 2).mean()
    penalty.backward()
    np.testing.assert_allclose(ours, penalty.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, weights.grad, rtol=1e-4, atol=1e-6)


def test_batch_norm_is_pytorchs():
    layer = batch_norm(3, nnx.Rngs(0))
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
