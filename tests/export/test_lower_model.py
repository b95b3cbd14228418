"""Whole networks: the answers, the number of nodes and of Transposes, names, versions, checks."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx_against_jax import bytes_, check, operations, run_session
from test_lower_rewrites import settled

from export.lower import IR_VERSION, OPSET, InputSpec, lower
from train.detectors.aesc import AESC
from train.detectors.aesc.config import AEScConfig
from train.detectors.aesc.model import PLAIN, AESc

PASSES = 5
SCORING = ("plain",) * 6 + ("subpixel",)  # no gradient needed: only the decoder gains


def trained(model):
    for seed, (_, part) in enumerate(nnx.iter_graph(model)):
        if isinstance(part, nnx.BatchNorm):
            settled(part, seed)
    model.eval()
    return model


class PlainUNet(nnx.Module):
    """The sheet's network in nnx alone: strided convolutions, batch norm, nearest upsampling, added skips."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
        chain = zip((3, *widths), widths, strict=False)
        back = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.down = nnx.List([nnx.Conv(a, b, (5, 5), strides=2, rngs=rngs) for a, b in chain])
        self.down_norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for width in widths])
        self.up = nnx.List([nnx.Conv(a, b, (5, 5), rngs=rngs) for a, b in back])
        self.up_norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for width in widths[-2::-1]])
        self.head = nnx.Conv(widths[0], 3, (5, 5), rngs=rngs)

    def __call__(self, x):
        levels = []
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            x = nnx.leaky_relu(norm(conv(x)), 0.3)
            levels.append(x)
        for conv, norm, skip in zip(self.up, self.up_norms, levels[-2::-1], strict=True):
            x = nnx.leaky_relu(norm(conv(doubled(x))), 0.3) + skip
        return nnx.sigmoid(self.head(doubled(x)))


def doubled(x):
    return jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "nearest")


def residual(network):
    def score(images):
        x = images.astype(jnp.float32) / 255
        difference = jnp.mean(jnp.abs(x - network(x)) * 255, axis=-1)
        return jnp.sqrt(jnp.mean(difference**2, axis=(1, 2))), difference

    return score


def test_unet_in_plain_nnx_has_one_transpose():
    network = trained(PlainUNet((4, 8, 16, 32, 64, 128), nnx.Rngs(0)))
    model = check(residual(network), (128, 128, 3), dtype=np.uint8, draw=bytes_, tolerance=5e-6)
    counts = operations(model)
    assert counts["Transpose"] == 1  # at the entrance
    assert (counts["Conv"], counts["LeakyRelu"], counts["Resize"], counts["Sigmoid"]) == (12, 11, 6, 1)
    assert counts["BatchNormalization"] == counts["Where"] == counts["Unsqueeze"] == counts["Reshape"] == 0
    assert len(model.graph.node) <= 50


@pytest.mark.parametrize("forms", [PLAIN, SCORING, ("subpixel",) * 7])
def test_aesc_in_every_form_has_one_transpose(forms):
    network = trained(AESc(3, 2, forms=forms, rngs=nnx.Rngs(0)))
    model = check(residual(network), (128, 128, 3), dtype=np.uint8, draw=bytes_, tolerance=5e-6)
    counts = operations(model)
    assert counts["Transpose"] == 1
    assert counts["Conv"] == 12
    assert counts["DepthToSpace"] == 6 * (forms[-1] == "subpixel")
    assert counts["SpaceToDepth"] == 6 * (forms[0] == "subpixel")
    assert len(model.graph.node) <= 56


@pytest.mark.parametrize("network", ["aesc", "ae"])
@pytest.mark.parametrize("scoring", ["residual", "uncertainty"])
@pytest.mark.parametrize("quantise", [False, True])
def test_aesc_scores_as_they_ship(network, scoring, quantise):
    """The uncertainty's passes join and leave the symbolic batch without moving an image."""
    config = AEScConfig(
        network=network, image_size=128, filters=2, scoring=scoring, dropout_passes=PASSES, quantise=quantise
    )
    model = trained(AESC.build(config, nnx.Rngs(0)))
    weights = AESC.fold(model, None, config)
    # A reconstruction that lies between two grey levels may round either way, which is one grey level for that pass.
    tolerance = 5e-2 if quantise else 1e-5
    proto = check(
        lambda images: AESC.score(weights, images, config),
        (128, 128, 3),
        dtype=np.uint8,
        draw=bytes_,
        tolerance=tolerance,
    )
    counts = operations(proto)
    assert counts["Transpose"] == 1
    assert len(proto.graph.node) <= (56 if scoring == "residual" else 95)


@pytest.mark.parametrize("scoring", ["residual", "uncertainty"])
def test_the_smallest_image_shrinks_to_one_pixel_and_is_right(scoring):
    """64 px: the bottleneck is 1 x 1, so axes of size 1 turn up where others have none."""
    config = AEScConfig(image_size=64, filters=2, scoring=scoring, dropout_passes=PASSES)
    weights = AESC.fold(trained(AESC.build(config, nnx.Rngs(0))), None, config)
    check(lambda images: AESC.score(weights, images, config), (64, 64, 3), dtype=np.uint8, draw=bytes_, tolerance=1e-5)


def test_grey_networks():
    config = AEScConfig(image_size=64, filters=2, color="grey", scoring="residual")
    weights = AESC.fold(trained(AESC.build(config, nnx.Rngs(0))), None, config)
    check(lambda images: AESC.score(weights, images, config), (64, 64, 3), dtype=np.uint8, draw=bytes_, tolerance=1e-5)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv_in = nnx.Conv(3, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        with jax.named_scope("stem"):
            x = self.norm(self.conv_in(x))
        return nnx.relu(x)


def test_nodes_are_named_after_modules_and_scopes():
    model = check(trained(Block(nnx.Rngs(0))), (8, 8, 3), tolerance=5e-6)
    names = [node.name for node in model.graph.node]
    assert any(name.startswith("stem/") and "Conv" in name for name in names), names
    assert len(set(names)) == len(names)

    network = trained(PlainUNet((2, 4), nnx.Rngs(0)))
    names = [node.name for node in check(residual(network), (8, 8, 3), dtype=np.uint8, draw=bytes_).graph.node]
    assert "PlainUNet/Conv/Conv_0" in names, names


def test_bytes_are_only_converted():
    """TensorRT takes uint8 as an input and allows nothing but a Cast on it."""
    model = check(residual(trained(PlainUNet((2, 4), nnx.Rngs(0)))), (8, 8, 3), dtype=np.uint8, draw=bytes_)
    assert [node.op_type for node in model.graph.node if "x0" in node.input] == ["Cast"]


def test_versions_that_the_oldest_readers_know():
    model = check(lambda x: x + 1, (3,))
    assert (model.opset_import[0].version, model.opset_import[0].domain) == (OPSET, "") == (18, "")
    assert model.ir_version == IR_VERSION <= 10
    onnx.checker.check_model(model, full_check=True)


def test_only_32_bit_numbers_reach_the_engine():
    model = lower(residual(lambda x: x * 0.5), {"x": InputSpec(("n", 4, 4, 3), "uint8")}, ["a", "b"])
    types = {t.data_type for t in model.graph.initializer}
    assert onnx.TensorProto.DOUBLE not in types
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {onnx.TensorProto.FLOAT}


def test_a_fixed_batch_needs_no_symbol():
    model = lower(lambda x: jnp.mean(x, axis=-1), {"x": InputSpec((2, 4, 4, 3), np.float32)}, ["y"])
    x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    (found,) = run_session(model).run(None, {"x": x})
    np.testing.assert_allclose(found, x.mean(-1), rtol=1e-6)


def test_several_inputs_and_an_input_that_is_an_output():
    def function(x, y):
        return {"sum": x + y, "same": x, "constant": jnp.ones(2)}

    model = lower(function, {"x": InputSpec(("n", 3), np.float32), "y": InputSpec((3,), np.float32)}, ["c", "a", "s"])
    x = np.float32([[1, 2, 3]])
    constant, same, total = run_session(model).run(["c", "a", "s"], {"x": x, "y": np.float32([1, 1, 1])})
    np.testing.assert_array_equal(total, x + 1)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(constant, [1, 1])


def test_one_tensor_under_two_output_names():
    model = lower(lambda x: (x + 1, x + 1), {"x": InputSpec(("n", 2), np.float32)}, ["a", "b"])
    first, second = run_session(model).run(["a", "b"], {"x": np.float32([[1, 2]])})
    np.testing.assert_array_equal(first, second)
