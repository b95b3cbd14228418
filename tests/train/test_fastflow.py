"""FastFlow: invertible, with the right log-determinant, the published number of parameters and the sheet's scores."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from train.backbones.registry import find_backbone
from train.config import ConfigError, find_config, load_config
from train.detectors.fastflow import FASTFLOW, FastFlowConfig, build
from train.detectors.fastflow.coupling import AlternateStep, DoubleStep, halves, permute
from train.detectors.fastflow.loss import negative_log_likelihood
from train.detectors.fastflow.model import FastFlow, Flow, Latent
from train.detectors.fastflow.normalisation import Normalise, moments
from train.detectors.fastflow.score import raw_scores

COUPLINGS = {"alternate": AlternateStep, "double": DoubleStep}


def shaken(module, seed: int, scale: float = 0.3):
    """Every trained number moved at random: fresh gains are 1 and shifts 0, which would hide a mistake."""
    state, keys = nnx.state(module, nnx.Param), iter(jax.random.split(jax.random.key(seed), 1000))
    nnx.update(module, jax.tree.map(lambda x: x + scale * jax.random.normal(next(keys), x.shape, x.dtype), state))
    return module


def in_float64(module):
    nnx.update(module, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(module, nnx.Param)))
    return module


@pytest.mark.parametrize("coupling", COUPLINGS)
@given(seed=st.integers(0, 2**16), half=st.integers(1, 4), ratio=st.sampled_from([0.16, 1.0, 2.0]))
def test_inverse_undoes_forward(coupling, seed, half, ratio):
    step = COUPLINGS[coupling](2 * half, ratio, 3, clamp=2.0, form="plain", rngs=nnx.Rngs(seed))
    step = shaken(step, seed)
    x = jax.random.normal(jax.random.key(seed), (2, 5, 3, 2 * half))
    z, _ = step(x)
    assert not np.allclose(z, x)
    np.testing.assert_allclose(step.inverse(z), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("kernels", ["3x3", "3x3_1x1"])
def test_log_det_is_that_of_the_dense_jacobian_in_float64(coupling, kernels):
    config = FastFlowConfig(backbone="mini", flow_steps=4, coupling=coupling, kernels=kernels)
    with jax.enable_x64(True):
        flow = in_float64(shaken(Flow(4, config, form="plain", rngs=nnx.Rngs(0)), 1))
        x = jax.random.normal(jax.random.key(2), (1, 4, 4, 4), dtype=jnp.float64)
        jacobian = jax.jacfwd(lambda v: flow(v.reshape(x.shape)).z.ravel())(x.ravel())
        z, log_det = flow(x)
        assert float(log_det.sum()) == pytest.approx(float(np.linalg.slogdet(jacobian)[1]), rel=1e-9)
        assert abs(float(log_det.sum())) > 0.1
        np.testing.assert_allclose(flow.inverse(z), x, atol=1e-9)


def test_log_det_per_cell_belongs_to_its_cell():
    """With 1x1 kernels every cell is a map of its own: its Jacobian alone gives its log-determinant."""
    with jax.enable_x64(True):
        step = AlternateStep(6, 1.0, 1, clamp=2.0, form="plain", rngs=nnx.Rngs(0))
        step = in_float64(shaken(step, 3))
        x = jax.random.normal(jax.random.key(4), (1, 2, 3, 6), dtype=jnp.float64)
        _, log_det = step(x)
        for row in range(2):
            for column in range(3):
                cell = x[0, row, column]
                jacobian = jax.jacfwd(lambda v: step(v.reshape(1, 1, 1, 6))[0].ravel())(cell)
                assert float(log_det[0, row, column]) == pytest.approx(float(np.linalg.slogdet(jacobian)[1]), rel=1e-9)


@pytest.mark.parametrize(
    ("shapes", "settings", "count"),
    [  # sheet: "Parameter counts"
        (((64, 64, 64), (32, 32, 128), (16, 16, 256)), {}, 4_657_408),
        (((64, 64, 64), (32, 32, 128), (16, 16, 256)), {"normalisation": "layer_norm_affine"}, 5_574_912),
        (((64, 64, 64), (32, 32, 128), (16, 16, 256)), {"kernels": "3x3_1x1"}, 2_593_024),
        (((64, 64, 256), (32, 32, 512), (16, 16, 1024)), {"kernels": "3x3_1x1"}, 41_337_856),
        (((64, 64, 256), (32, 32, 512), (16, 16, 1024)), {}, 74_368_000),
        (((24, 24, 768),), {"flow_steps": 20, "hidden_ratio": 0.16, "normalisation": "none"}, 12_696_260),
        (
            ((28, 28, 768),),
            {"flow_steps": 20, "hidden_ratio": 0.16, "normalisation": "none", "kernels": "3x3_1x1"},
            7_074_500,
        ),
    ],
)
def test_parameter_counts_are_the_sheets(shapes, settings, count):
    config = FastFlowConfig(backbone="resnet18", **settings)
    model = nnx.eval_shape(lambda: FastFlow(shapes, config, rngs=nnx.Rngs(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


def test_both_couplings_have_the_same_parameters_but_for_the_act_norm():
    alternate, double = (
        sum(
            leaf.size
            for leaf in jax.tree.leaves(
                nnx.state(
                    Flow(8, FastFlowConfig(backbone="mini", coupling=kind), form="plain", rngs=nnx.Rngs(0)), nnx.Param
                )
            )
        )
        for kind in ("alternate", "double")
    )
    assert alternate - double == 4 * 2 * 8  # four steps fewer, each with a gain and a shift per channel


def test_a_fresh_gain_is_one():
    step = AlternateStep(4, 1.0, 3, clamp=2.0, form="plain", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(step.act_norm.gain(), np.ones(4), rtol=1e-6)


def test_an_odd_number_of_channels_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="there are 7. Tap the backbone where their number is even"):
        halves(7)


def test_permuting_as_a_product_is_indexing():
    x, order = jax.random.normal(jax.random.key(0), (2, 3, 3, 16)), jax.random.permutation(jax.random.key(1), 16)
    np.testing.assert_array_equal(permute(x, order, "fast"), permute(x, order, "plain"))


def test_bfloat16_is_in_the_convolutions_alone():
    config = FastFlowConfig(backbone="mini", flow_steps=4, compute="bfloat16")
    features = tuple(jax.random.normal(jax.random.key(1), (2, 8, 8, 4)) for _ in range(2))
    graph, params, rest = nnx.split(shaken(FastFlow([(8, 8, 4)] * 2, config, rngs=nnx.Rngs(0)), 1), nnx.Param, ...)

    def loss(params):
        latents = nnx.merge(graph, params, rest)(features)
        return sum(negative_log_likelihood(latent).sum() for latent in latents)

    trace = jax.make_jaxpr(jax.value_and_grad(loss))(params)
    dtypes = {}
    for equation in equations(trace.jaxpr):
        dtypes.setdefault(equation.primitive.name, set()).update(v.aval.dtype.name for v in equation.invars)
    assert dtypes["conv_general_dilated"] == {"bfloat16"}
    for name in ("exp", "tanh", "log", "log1p"):
        assert dtypes[name] == {"float32"}, name
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.grad(loss)(params))} == {jnp.dtype("float32")}


def test_a_flow_of_bfloat16_subnets_is_still_inverted_exactly_and_near_float32():
    x = jax.random.normal(jax.random.key(3), (2, 8, 8, 4))
    flows = {}
    for compute in ("bfloat16", "float32"):
        config = FastFlowConfig(backbone="mini", flow_steps=4, compute=compute)
        flows[compute] = shaken(Flow(4, config, form="plain", rngs=nnx.Rngs(0)), 1)
    half, full = flows["bfloat16"](x), flows["float32"](x)
    np.testing.assert_allclose(flows["bfloat16"].inverse(half.z), x, atol=1e-4)
    np.testing.assert_allclose(half.log_det, full.log_det, atol=0.05)
    assert not np.array_equal(half.log_det, full.log_det)


def test_scoring_is_float32_whatever_training_computed_in():
    config = FastFlowConfig(backbone="mini", flow_steps=2, image_size=64, compute="bfloat16")
    backbone = FASTFLOW.frozen.load(config)
    scorer = FASTFLOW.fold(build(config, nnx.Rngs(0)), backbone, config)
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    trace = jax.make_jaxpr(lambda images: FASTFLOW.score(scorer, images, config))(images)
    assert not [e for e in equations(trace.jaxpr) for v in e.outvars if v.aval.dtype == jnp.bfloat16]


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_what_scores_is_the_trained_flow_with_act_norm_folded(coupling):
    config = FastFlowConfig(backbone="mini", flow_steps=4, coupling=coupling, image_size=64)
    model = shaken(build(config, nnx.Rngs(0)), 1, scale=0.1)
    folded = FASTFLOW.fold(model, FASTFLOW.frozen.load(config), config).flow
    shapes = [(2, 64 // tap.stride, 64 // tap.stride, tap.channels) for tap in find_backbone(config.backbone).taps]
    features = tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    for whole, found in zip(model(features), folded(features), strict=True):
        np.testing.assert_allclose(found.z, whole.z, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.log_det, whole.log_det, rtol=1e-4, atol=1e-4)
    assert isinstance(model.flows[0], Flow)  # it trains on


def equations(jaxpr):
    """Of a program and all programs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_whitened_training_features_have_the_unit_matrix_as_covariance():
    rng = np.random.default_rng(0)
    mixed = (rng.normal(size=(40, 8, 8, 6)) @ (np.eye(6) + 0.2 * rng.normal(size=(6, 6))) + 3).astype(np.float32)
    mean, covariance = moments([mixed[:17], mixed[17:]])
    cells = mixed.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(mean, cells.mean(0), rtol=1e-9)
    np.testing.assert_allclose(covariance, np.cov(cells.T, bias=True), rtol=1e-9, atol=1e-9)
    whiten = Normalise("whiten", (8, 8, 6))
    whiten.measure(mean, covariance)
    out = np.asarray(whiten(jnp.asarray(mixed))).reshape(-1, 6)
    np.testing.assert_allclose(np.cov(out.T, bias=True), np.eye(6), atol=5e-3)
    standardise = Normalise("standardise", (8, 8, 6))
    standardise.measure(mean, covariance)
    out = np.asarray(standardise(jnp.asarray(mixed))).reshape(-1, 6)
    np.testing.assert_allclose(out.std(0), np.ones(6), atol=1e-3)


def test_layer_norm_is_over_the_whole_volume_of_an_image():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 8)) * 5 + 2
    out = np.asarray(Normalise("layer_norm", (4, 4, 8))(x))
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 1, atol=1e-4)


def test_a_direction_without_variance_is_not_blown_up():
    flat = np.zeros((4, 4, 4, 3), np.float32)
    flat[..., 0] = np.random.default_rng(0).normal(size=(4, 4, 4))
    whiten = Normalise("whiten", (4, 4, 3))
    whiten.measure(*moments([flat]))
    assert np.abs(whiten.matrix[...]).max() < 1e3


def test_loss_is_the_negative_log_density_up_to_its_constant():
    config = FastFlowConfig(backbone="mini", flow_steps=2)
    with jax.enable_x64(True):
        flow = in_float64(shaken(Flow(4, config, form="plain", rngs=nnx.Rngs(0)), 5))
        x = jax.random.normal(jax.random.key(6), (2, 3, 3, 4), dtype=jnp.float64)
        losses = np.asarray(negative_log_likelihood(flow(x)))
        for image, loss in zip(x, losses, strict=True):
            jacobian = jax.jacfwd(lambda v: flow(v.reshape(1, 3, 3, 4)).z.ravel())(image.ravel())
            z = np.asarray(flow(image[None]).z).ravel()
            density = -0.5 * z @ z - 0.5 * z.size * np.log(2 * np.pi) + np.linalg.slogdet(jacobian)[1]
            assert -density - 0.5 * z.size * np.log(2 * np.pi) == pytest.approx(float(loss), rel=1e-9)


def bilinear(small: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres, float64, written out."""
    ratio = len(small) / size
    at = np.clip((np.arange(size) + 0.5) * ratio - 0.5, 0, len(small) - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, len(small) - 1), at - low
    rows = small[low] * (1 - part)[:, None] + small[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (0.0, 0.01), (0.25, 0.0)])
def test_scores_are_the_sheets(weight, share):
    rng = np.random.default_rng(0)
    shapes = [(2, 16, 16, 6), (2, 8, 8, 4)]
    latents = [
        Latent(jnp.asarray(rng.normal(size=s), jnp.float32), jnp.asarray(rng.normal(size=s[:3]), jnp.float32))
        for s in shapes
    ]
    scores = raw_scores(latents, 32, log_det_weight=weight, top_share=share)
    for image in range(2):
        maps = []
        for latent in latents:
            z, log_det = np.asarray(latent.z[image], np.float64), np.asarray(latent.log_det[image], np.float64)
            p = np.exp(-0.5 * (z**2).mean(-1) + weight * log_det / z.shape[-1])
            p = p / (1 + p) if weight else p
            maps.append(bilinear(1 - p, 32))
        expected = np.mean(maps, axis=0)
        np.testing.assert_allclose(scores.anomaly_map[image], expected, atol=1e-5)
        highest = np.sort(expected.ravel())[::-1]
        count = max(round(share * 1024), 1)
        assert float(scores.image_score[image]) == pytest.approx(highest[:count].mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("backbone=resnet81", "resnet81 is not a backbone. Did you mean resnet18?"),
        ("image_size=250", "image_size is 250; mini takes multiples of"),
        ("color=grey", "leave it at rgb"),
    ],
)
def test_wrong_settings_are_answered(setting, text):
    with pytest.raises(ConfigError) as caught:
        load_config(find_config("fastflow", "tiny"), FASTFLOW.schema, [setting])
    assert text in str(caught.value)
    assert "{" not in str(caught.value), "the whole settings do not help"
