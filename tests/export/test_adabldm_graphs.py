"""AdaBLDM's networks as graphs: ONNX Runtime gives what JAX gives, TensorRT-RTX builds them, axes are hardly moved."""

from functools import cache

import jax
import numpy as np
import onnx
import pytest
from flax import nnx
from network_plans import assert_taken
from onnx_against_jax import operations, run_session

from export.graphs import lower_network, random_inputs
from train.generators.adabldm.autoencoder import KLSpec
from train.generators.adabldm.model import AdaBLDM, exported
from train.generators.adabldm.sizes import Size
from train.generators.adabldm.text import ClipSpec, LabelSpec
from train.generators.adabldm.tiny_autoencoder import TinySpec
from train.generators.adabldm.trimap import TrimapSpec
from train.generators.adabldm.unet import UNetSpec
from train.networks import Network

UNET = UNetSpec(
    width=8, multipliers=(1, 2), residual_blocks=1, transformers=(True, False), heads=2, context=8, groups=4
)
PUBLISHED_KIND = Size(
    image=16,
    autoencoder=KLSpec(width=8, multipliers=(1, 2), residual_blocks=1, groups=4),
    unet=UNET,
    trimap=TrimapSpec((4, 6)),
    text=ClipSpec(vocabulary=30, tokens=7, width=8, heads=2, layers=1),
)
SMALL_KIND = Size(
    image=16,
    autoencoder=TinySpec(latent_channels=4, pooled=True, width=8),
    unet=UNET,
    trimap=TrimapSpec((4, 4, 4, 6)),
    text=LabelSpec(tokens=2, width=8),
)
NETWORKS = {  # and the most Transposes each may have
    "text": (PUBLISHED_KIND, 8),
    "encoder": (PUBLISHED_KIND, 4),
    "decoder": (PUBLISHED_KIND, 4),
    "trimap_encoder": (PUBLISHED_KIND, 8),
    "denoiser": (PUBLISHED_KIND, 12),
    "label text": (SMALL_KIND, 0),
    "tiny encoder": (SMALL_KIND, 2),
    "tiny decoder": (SMALL_KIND, 2),
}

BUILT = {"text", "denoiser", "tiny decoder"}  # they hold every operation of the others; the rest is slow


@cache
def networks(size: Size) -> dict[str, Network]:
    """Of weights none of which is 0."""
    model = AdaBLDM(size, labels=3, rngs=nnx.Rngs(0))
    generator = np.random.default_rng(0)
    state = jax.tree.map(lambda x: x + 0.1 * generator.standard_normal(x.shape).astype(np.float32), nnx.state(model))
    nnx.update(model, state)
    return {network.name: network for network in exported(model, size)}


def _on_host(model):
    return jax.tree.map(np.asarray, nnx.state(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_is_jax_and_an_engine_takes_it(name):
    size, transposes = NETWORKS[name]
    network = networks(size)[name.split()[-1]]
    model = lower_network(network)
    onnx.checker.check_model(model, full_check=True)
    given = random_inputs(network, 2)
    found = run_session(model).run(list(network.outputs), given)
    cheap = {"xla_backend_optimization_level": 0}  # it runs once
    compiled = jax.jit(network.function, compiler_options=cheap)
    for output, ours, theirs in zip(network.outputs, found, jax.tree.leaves(compiled(*given.values())), strict=True):
        scale = np.abs(theirs).max()
        assert np.std(theirs) > 0.01 * scale
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * scale, err_msg=output)
    assert operations(model)["Transpose"] <= transposes, operations(model)
    assert_taken(model, built=name in BUILT)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - BUILT))
def test_the_others_build_too(name):
    assert_taken(lower_network(networks(NETWORKS[name][0])[name.split()[-1]]), built=True)
