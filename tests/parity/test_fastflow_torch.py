"""FastFlow against PyTorch with the same weights: latents, log-determinants, loss, its gradients, the map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_fastflow import shaken

from train.detectors.fastflow.config import FastFlowConfig
from train.detectors.fastflow.loss import negative_log_likelihood
from train.detectors.fastflow.model import FastFlow, Flow
from train.detectors.fastflow.score import raw_scores

torch = pytest.importorskip("torch")
import torch_fastflow as plain  # noqa: E402

pytestmark = pytest.mark.parity


def copied(flow: Flow, channels: int):
    """The PyTorch flow with our weights, float64."""
    network = plain.Flow(channels, steps=len(flow.steps)).double()
    with torch.no_grad():
        for theirs, ours in zip(network.steps, flow.steps, strict=True):
            for conv, source in ((theirs.subnet[0], ours.subnet.conv_in), (theirs.subnet[2], ours.subnet.conv_out)):
                conv.weight.copy_(tensor(source.kernel[...].transpose(3, 2, 0, 1)))
                conv.bias.copy_(tensor(source.bias[...]))
            theirs.gamma.copy_(tensor(ours.act_norm.gamma[...])[None, :, None, None])
            theirs.shift.copy_(tensor(ours.act_norm.shift[...])[None, :, None, None])
            theirs.permutation.copy_(torch.from_numpy(np.array(ours.permutation[...])))
    return network


def tensor(array):
    return torch.from_numpy(np.array(array, np.float64))


def channels_first(x):
    return tensor(np.asarray(x).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_latents_log_determinants_and_gradients_match(form):
    config = FastFlowConfig(backbone="mini", flow_steps=4)
    flow = shaken(Flow(8, config, form=form, rngs=nnx.Rngs(0)), 1, scale=0.1)
    x = jax.random.normal(jax.random.key(2), (2, 6, 5, 8))
    network, given = copied(flow, 8), channels_first(x)
    z, log_det = network(given)
    ours = flow(x)
    np.testing.assert_allclose(np.asarray(ours.z).transpose(0, 3, 1, 2), z.detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(ours.log_det).sum((1, 2)), log_det.detach(), rtol=1e-4, atol=1e-4)

    (0.5 * (z**2).sum((1, 2, 3)) - log_det).mean().backward()
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    gradient = jax.grad(lambda p: jnp.mean(negative_log_likelihood(nnx.merge(graph, p, rest)(x))))(params)
    of_ours = nnx.merge(graph, gradient, rest)
    for theirs, step in zip(network.steps, of_ours.steps, strict=True):
        pairs = [
            (theirs.subnet[0].weight.grad, step.subnet.conv_in.kernel[...].transpose(3, 2, 0, 1)),
            (theirs.subnet[2].bias.grad, step.subnet.conv_out.bias[...]),
            (theirs.gamma.grad.ravel(), step.act_norm.gamma[...]),
            (theirs.shift.grad.ravel(), step.act_norm.shift[...]),
        ]
        for expected, found in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("affine", [True, False])
def test_the_whole_way_from_features_to_the_map_matches(affine):
    kind = "layer_norm_affine" if affine else "layer_norm"
    config = FastFlowConfig(backbone="mini", flow_steps=2, normalisation=kind)
    shapes = ((16, 16, 8), (8, 8, 12))
    model = shaken(FastFlow(shapes, config, rngs=nnx.Rngs(0)), 3, scale=0.05)
    drawn = [3 * jax.random.normal(jax.random.key(scale), (2, *shape)) + 1 for scale, shape in enumerate(shapes)]
    scores = raw_scores(model(tuple(drawn)), 64, log_det_weight=0.0, top_share=0.0)
    latents = []
    for x, flow, norm, (h, w, c) in zip(drawn, model.flows, model.normalise, shapes, strict=True):
        layer = torch.nn.LayerNorm([c, h, w], elementwise_affine=affine).double()
        if affine:
            with torch.no_grad():
                layer.weight.copy_(tensor(norm.weight[...].transpose(2, 0, 1)))
                layer.bias.copy_(tensor(norm.bias[...].transpose(2, 0, 1)))
        latents.append(copied(flow, c)(layer(channels_first(x)))[0].detach())
    image_score, anomaly_map = plain.anomaly_map(latents, 64)
    np.testing.assert_allclose(scores.anomaly_map, anomaly_map, atol=2e-5)
    np.testing.assert_allclose(scores.image_score, image_score, atol=2e-5)


def test_the_peer_has_the_parameters_that_users_see_printed():
    trained = [p for p in plain.FastFlow(256).parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 5_574_912
