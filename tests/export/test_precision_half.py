"""float16 graphs: what must be float32 is, the rest is float16, and the answers are float32's to its precision."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from precise_graphs import SCORES, constants, float_types, reading

from export.lower import InputSpec, lower
from export.precision.graph import FloatGraph
from export.precision.half import HEADROOM, LARGEST, half_nodes, overflowing, rounded, to_half
from export.precision.peaks import peaks

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
LAYER = jax.lax.conv_dimension_numbers((1, 8, 8, 4), (3, 3, 4, 4), ("NHWC", "HWIO", "NHWC"))

# Said again here, so that the list of the code can be wrong.
WIDE = ("Exp", "Log", "Sqrt", "Pow", "Reciprocal", "Softmax", "ReduceSum", "ReduceMean", "TopK")

STEPS = {
    "relu": lambda x: jnp.maximum(x, 0),
    "coupling": lambda x: jnp.concatenate([x[..., :2], x[..., 2:] * jnp.exp(2 * jnp.tanh(x[..., :2]))], axis=-1),
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-6),
    "squeeze": lambda x: x * jax.nn.sigmoid(x.mean(axis=(1, 2), keepdims=True)),
    "log": lambda x: jnp.log1p(jnp.abs(x)),
    "skip": lambda x: x + 0.5 * x[..., ::-1],
    "root": lambda x: jnp.sqrt(jnp.abs(x) + 1e-8),
    "quotient": lambda x: x / (1 + jnp.max(jnp.abs(x), axis=-1, keepdims=True)),
}


def detector(steps, scale: float = 1.0):
    """A network of a layer before each step and one after the last, scored as detectors are."""
    kernels = jax.random.normal(jax.random.key(1), (len(steps) + 1, 3, 3, 4, 4)) / 6

    def score(image):
        x = image.astype(jnp.float32) / 255
        x = scale * jnp.concatenate([x, 1 - x[..., :1]], axis=-1)
        for step, kernel in zip([*steps, "skip"], kernels, strict=True):
            x = STEPS[step](jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYER))
        anomaly_map = 1 - jnp.exp(-jnp.mean(jnp.square(x), axis=-1))
        raw = jax.lax.top_k(anomaly_map.reshape(x.shape[0], -1), 5)[0].mean(axis=1)
        return raw / 0.7, anomaly_map / 0.3, raw

    return lower(score, {"image": InputSpec(("batch", 8, 8, 3), np.uint8)}, SCORES)


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})


def check_typing(graph: FloatGraph, half: onnx.ModelProto) -> None:
    types = float_types(half)
    assert all(value.type.tensor_type.elem_type == FLOAT for value in half.graph.output)
    assert [v.type.tensor_type.elem_type for v in half.graph.input] == [TensorProto.UINT8]
    for node, kinds in reading(half, *WIDE):
        assert kinds == {FLOAT}, node.name
    for node in half.graph.node:
        kinds = {types[name] for name in (*node.input, *node.output) if name in types}
        assert node.op_type == "Cast" or len(kinds) <= 1, f"{node.name} mixes types"
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            assert kinds == {FLOAT}, f"{node.name} squares"
        if node.op_type == "Div" and node.input[1] not in constants(half):
            assert kinds == {FLOAT}, f"{node.name} divides by what it computed"
    layers = [kinds for node, kinds in reading(half, "Conv") if node.name in graph.layers]
    assert layers
    assert all(kinds == {FLOAT16} for kinds in layers)
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts), "a tensor is cast twice"
    assert not {node.output[0] for node in casts if node.attribute[0].i != FLOAT} & {node.input[0] for node in casts}, (
        "there and back again"
    )


@settings(max_examples=12)
@example(["coupling"] * 3)  # whose scores are at their limit, the same in any precision
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
def test_any_network_is_typed_by_the_rules_and_answers_as_float32(steps):
    graph = FloatGraph(detector(steps))
    half = to_half(graph)
    check_typing(graph, half)
    for model in (half, rounded(half)):
        for ours, exact in zip(answers(model), answers(graph.model), strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, exact, atol=0.02 * max(1, exact.max()))
            at_limit = np.ptp(exact) == 0
            assert at_limit or not np.array_equal(ours, exact)


def test_what_only_exp_reads_is_float32_and_what_a_layer_reads_is_not():
    half = to_half(FloatGraph(detector(["coupling"])))
    assert [kinds for _, kinds in reading(half, "Tanh")] == [{FLOAT}]
    assert sum(kinds == {FLOAT16} for _, kinds in reading(half, "Concat")) == 1


def test_an_epsilon_that_float16_lacks_is_not_moved():
    model = detector(["root"])
    half = to_half(FloatGraph(model))
    assert any(
        c.data_type == FLOAT and 0 < abs(onnx.numpy_helper.to_array(c).max()) < 1e-7 for c in constants(half).values()
    )
    smallest = min(
        float(np.abs(values[values != 0]).min())
        for c in constants(half).values()
        if c.data_type == FLOAT16 and (values := onnx.numpy_helper.to_array(c)).any()
    )
    assert smallest > 1e-5


def test_masks_that_are_spread_at_load_are_float16_where_layers_read_them():
    mask = np.random.default_rng(0).random((1, 64, 64, 4)) < 0.5
    kernel = jnp.ones((3, 3, 4, 4)) * jnp.linspace(-0.1, 0.2, 4)

    def score(image):
        x = jnp.concatenate([image, image[..., :1]], axis=-1).astype(jnp.float32) / 255
        for _ in range(2):
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYER)
            x = x * jnp.where(mask, 2.0, 0.5)
        anomaly_map = jnp.abs(x).sum(-1)
        return anomaly_map.max((1, 2)), anomaly_map, anomaly_map.max((1, 2))

    graph = FloatGraph(lower(score, {"image": InputSpec(("batch", 64, 64, 3), np.uint8)}, SCORES))
    assert [kinds for _, kinds in reading(to_half(graph), "Where")] in ([{FLOAT16}], [{FLOAT}])
    assert graph.constant_nodes


def test_values_too_large_for_float16_are_found_and_given_back():
    graph = FloatGraph(detector(["relu", "quotient"], scale=1e5))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    largest = peaks(graph, images)
    half = half_nodes(graph)
    found = overflowing(graph, half, largest)
    assert found
    assert found.keys() <= half
    assert all(peak * HEADROOM > LARGEST for peak in found.values())
    kept = half_nodes(graph, found.keys())
    assert not overflowing(graph, kept, largest)
    assert not np.isfinite(answers(rounded(to_half(graph)))[1]).all()
    for ours, exact in zip(answers(rounded(to_half(graph, found.keys()))), answers(graph.model), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0.02, atol=0.02)


def test_peaks_are_the_largest_magnitudes():
    graph = FloatGraph(detector(["relu"]))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    found = peaks(graph, images)
    exact = answers(graph.model)
    assert found["raw_score"] == pytest.approx(exact[2].max(), rel=1e-6)
    assert found["anomaly_map"] == pytest.approx(exact[1].max(), rel=1e-6)
    computed = {name for node in graph.nodes for name in node.output if float_types(graph.model).get(name)}
    assert found.keys() == computed


def test_measuring_rounds_every_result_of_a_float16_node():
    """ONNX Runtime's CPU leaves that out where it has the float16 graph itself; so there is one for measuring."""
    half = to_half(FloatGraph(detector(["relu", "skip"])))
    stored = [name for name, kind in float_types(half).items() if kind == FLOAT16 and name not in constants(half)]
    model = rounded(half)
    assert stored
    for name in stored:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    for name, values in zip(stored, answers(model)[3:], strict=True):
        np.testing.assert_array_equal(values, values.astype(np.float16), err_msg=name)
    assert {constant.data_type for constant in model.graph.initializer} <= {FLOAT, TensorProto.INT64}
