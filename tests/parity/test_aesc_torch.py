"""AESc against PyTorch with the same weights: an independent writing of the sheet's table."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_aesc import shaken

from train.detectors.aesc.loss import mean_squared_error
from train.detectors.aesc.model import CPU_TRAINING, AESc

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def torch_network(model: AESc, skips: bool):
    """Keras' "same" padding of a 5x5 kernel is (1, 2) at stride 2, (2, 2) at stride 1; LeakyReLU 0.3; BN 1e-3, 0.99."""
    nn = torch.nn

    def block(source, stride: int):
        conv = nn.Conv2d(source.conv.in_features, source.conv.out_features, 5, stride)
        norm = nn.BatchNorm2d(source.conv.out_features, eps=1e-3, momentum=0.01)
        copy(conv.weight, source.conv.kernel[...].transpose(3, 2, 0, 1))
        copy(conv.bias, source.conv.bias[...])
        copy(norm.weight, source.norm.scale[...])
        copy(norm.bias, source.norm.bias[...])
        copy(norm.running_mean, source.norm.mean[...])
        copy(norm.running_var, source.norm.var[...])
        pad = nn.ZeroPad2d((1, 2, 1, 2) if stride == 2 else 2)
        return nn.Sequential(pad, conv, norm, nn.LeakyReLU(0.3))

    def copy(to, array):
        to.data = torch.from_numpy(np.array(array, np.float64))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.ModuleList([block(source, 2) for source in model.encoder])
            self.decoder = nn.ModuleList([block(source, 1) for source in model.decoder])
            self.head = nn.Conv2d(model.head.in_features, model.head.out_features, 5, padding=2)
            copy(self.head.weight, model.head.kernel[...].transpose(3, 2, 0, 1))
            copy(self.head.bias, model.head.bias[...])
            self.up = nn.Upsample(scale_factor=2, mode="nearest")

        def forward(self, x):
            levels = []
            for level in self.encoder:
                x = level(x)
                levels.append(x)
            for level, skip in zip(self.decoder, levels[-2::-1], strict=True):
                x = level(self.up(x))
                x = x + skip if skips else x
            return torch.sigmoid(self.head(self.up(x)))

    return Network().double()


@pytest.mark.parametrize("skips", [True, False])
def test_reconstruction_and_gradients_match(skips):
    model = shaken(AESc(3, 4, skips=skips, forms=CPU_TRAINING, rngs=nnx.Rngs(3)), seed=3)
    reference = torch_network(model, skips)
    x = np.random.default_rng(0).random((2, 64, 128, 3))
    torch_x = torch.from_numpy(x.transpose(0, 3, 1, 2))
    model.eval()
    reference.eval()
    expected = reference(torch_x).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(model(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)

    model.train()
    reference.train()
    target = 1 - x
    loss, gradient = nnx.value_and_grad(
        lambda model: mean_squared_error(model(jnp.asarray(x, jnp.float32)), jnp.asarray(target, jnp.float32)).mean()
    )(model)
    torch_loss = ((reference(torch_x) - torch.from_numpy(target.transpose(0, 3, 1, 2))) ** 2).mean()
    torch_loss.backward()
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-5)
    pairs = [
        (gradient.encoder[0].conv.kernel[...], reference.encoder[0][1].weight.grad),
        (gradient.encoder[5].conv.kernel[...], reference.encoder[5][1].weight.grad),
        (gradient.decoder[0].conv.kernel[...], reference.decoder[0][1].weight.grad),
        (gradient.head.kernel[...], reference.head.weight.grad),
    ]
    for ours, gradient_of_torch in pairs:
        theirs = gradient_of_torch.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())
    # Running statistics: Keras' momentum 0.99 is PyTorch's 0.01. PyTorch divides by n - 1 there, Keras and Flax by n.
    np.testing.assert_allclose(model.encoder[0].norm.mean[...], reference.encoder[0][2].running_mean, atol=1e-5)


def test_parameters_are_as_many():
    model = AESc(3, 16, rngs=nnx.Rngs(0))
    assert sum(p.numel() for p in torch_network(model, True).parameters()) == 8_736_515
