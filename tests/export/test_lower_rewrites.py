"""Rewrites change the number of nodes and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_against_jax import channels_first, check, few, operations

from train.blocks.subpixel import depth_to_space, downsampling_conv, space_to_depth, upsampling_conv


def settled(norm: nnx.BatchNorm, seed: int = 0) -> nnx.BatchNorm:
    """Statistics and weights as after training; a fresh batch norm does nothing."""
    generator = np.random.default_rng(seed)
    for part, low, high in (("mean", -1, 1), ("var", 0.2, 2), ("scale", 0.5, 2), ("bias", -1, 1)):
        variable = getattr(norm, part)
        variable[...] = jnp.asarray(generator.uniform(low, high, variable.shape), jnp.float32)
    norm.eval()
    return norm


@pytest.mark.parametrize("form", ["plain", "transposed", "subpixel", "bias after", "factor"])
def test_batch_norm_and_biases_go_into_the_convolution(form):
    conv = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(1), bias_init=nnx.initializers.normal(1.0))
    up = nnx.ConvTranspose(3, 8, (4, 4), strides=(2, 2), rngs=nnx.Rngs(1), bias_init=nnx.initializers.normal(1.0))
    norm = settled(nnx.BatchNorm(2 if form == "subpixel" else 8, rngs=nnx.Rngs(0)))
    bias = np.arange(8, dtype=np.float32)

    def function(x):
        if form == "transposed":
            return norm(up(x))
        if form == "subpixel":
            return norm(depth_to_space(conv(x), 2))
        if form == "bias after":
            return bias - norm(conv(x) + bias) / 3
        return 255 * conv(x)

    model = check(function, (5, 4, 3), tolerance=5e-6)
    assert set(operations(model)) <= {"Transpose", "Conv", "ConvTranspose", "DepthToSpace"}


def test_what_is_not_per_channel_stays_outside():
    table = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    conv = nnx.Conv(3, 6, (3, 3), rngs=nnx.Rngs(1))
    model = check(lambda x: conv(x) + table, (4, 5, 3), tolerance=5e-6)
    assert operations(model)["Add"] == 1
    model = check(lambda x: 1 / conv(x), (4, 5, 3), tolerance=2e-3)
    assert operations(model)["Div"] == 1


def test_a_convolution_that_is_also_read_elsewhere_is_not_touched():
    conv = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(1))

    def function(x):
        y = conv(x)
        return y * 2 + jnp.tanh(y)

    assert operations(check(function, (4, 5, 3), tolerance=5e-6))["Mul"] == 1


@pytest.mark.parametrize("slope", [0.3, 0.01])
def test_leaky_relu_is_one_node(slope):
    model = check(lambda x: nnx.leaky_relu(channels_first(x), slope), (4, 3, 2))
    assert operations(model) == {"Transpose": 2, "Conv": 1, "LeakyRelu": 1}
    model = check(lambda x: jnp.where(x > 0, x, x * slope), (4,))
    assert operations(model) == {"LeakyRelu": 1}


def test_what_only_looks_like_a_leaky_relu_is_not():
    check(lambda x: jnp.where(x >= 1, x, x * 0.3), (40,))
    check(lambda x: jnp.where(x >= 0, x * 0.3, x), (40,))
    check(lambda x, y: jnp.where(x >= 0, y, x * 0.3), (40,), (40,))
    check(lambda x, y: jnp.where(y >= 0, x, x * 0.3), (40,), (40,))
    check(lambda x: jnp.where(x >= 0, x, x * x), (40,))
    check(lambda x: jnp.where(x <= 0, x, x * 0.3), (40,))


def test_relu_is_one_node():
    assert operations(check(nnx.relu, (9,))) == {"Relu": 1}
    assert operations(check(lambda x: jnp.maximum(0.0, x), (9,))) == {"Relu": 1}


@few
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 3),
    block=st.integers(2, 3),
    back=st.booleans(),
)
def test_block_moves_of_any_size(size, channels, block, back):
    def function(x):
        x = channels_first(x)
        return space_to_depth(x, block) if back else depth_to_space(x, block)

    shape = (block * size[0], block * size[1], channels) if back else (*size, block * block * channels)
    check(function, shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_block_moves_are_one_node(channels):
    model = check(lambda x: depth_to_space(channels_first(x), 2), (3, 5, 4 * channels))
    assert operations(model)["DepthToSpace"] == 1
    assert operations(model)["Transpose"] <= 2
    model = check(lambda x: space_to_depth(channels_first(x), 2), (6, 4, channels))
    assert operations(model)["SpaceToDepth"] == 1
    assert operations(model)["Transpose"] <= 2


def test_pixel_shuffle_as_pytorch_orders_it():
    def function(x):
        n, h, w, c = x.shape
        x = channels_first(x).reshape(n, h, w, c // 4, 2, 2)
        return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c // 4)

    model = check(function, (3, 5, 8))
    (node,) = (node for node in model.graph.node if node.op_type == "DepthToSpace")
    assert next(a.s for a in node.attribute if a.name == "mode") == b"CRD"


def test_blocks_of_an_image_of_another_shape_are_not_taken_for_its_own():
    def function(x):
        other = channels_first(x).reshape(x.shape[0], 6, 4, 8)  # 4 x 6 pixels read as 6 x 4
        return depth_to_space(other, 2), space_to_depth(other, 2)

    check(function, (4, 6, 8))


def test_a_name_proves_nothing():
    """A function called depth_to_space that orders its channels differently is lowered as it stands."""

    @jax.jit
    def depth_to_space(x):
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4)
        return x.transpose(0, 1, 4, 2, 3, 5).reshape(n, 2 * h, 2 * w, c // 4)  # columns before rows

    check(lambda x: depth_to_space(channels_first(x)), (3, 5, 8))


def test_activations_move_before_depth_to_space():
    conv = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(1))
    model = check(lambda x: nnx.leaky_relu(depth_to_space(conv(x), 2) + 1, 0.3), (4, 3, 3), tolerance=5e-6)
    assert [node.op_type for node in model.graph.node][1:4] == ["Conv", "LeakyRelu", "DepthToSpace"]


def test_masks_are_kept_as_bits_of_bytes():
    """30 dropout masks as floats would be four times the file."""
    keep = np.random.default_rng(0).random((4, 32, 32, 8)) < 0.7

    def function(x):
        factors = keep.astype(np.float32) / 0.7
        return jnp.mean(channels_first(x)[:, None] * factors, axis=1)

    model = check(function, (32, 32, 8), tolerance=5e-6)
    assert model.ByteSize() < 1.1 * keep.size
    assert any(t.data_type == onnx.TensorProto.BOOL for t in model.graph.initializer)


def test_equal_constants_are_kept_once_and_unused_ones_not_at_all():
    table = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    def function(x):
        unused = x @ (table * 2)
        return x @ table + jnp.tanh(x) @ (table * 1.0) + 0 * unused.shape[1]

    model = check(function, (64,), tolerance=5e-6)
    big = [t for t in model.graph.initializer if numpy_helper.to_array(t).size == table.size]
    assert len(big) == 1


def test_the_same_work_is_done_once():
    model = check(lambda x: jnp.exp(x) + jnp.exp(x) * jnp.exp(x), (5,), tolerance=5e-6)
    assert operations(model)["Exp"] == 1


def test_kernels_rearranged_in_the_function_are_folded():
    """Sub-pixel kernels are einsums of the weights: none of it may be left for the line."""
    kernel = np.random.default_rng(0).standard_normal((5, 5, 2, 3)).astype(np.float32)
    model = check(lambda x: upsampling_conv(x, jnp.asarray(kernel), "subpixel"), (4, 6, 2), tolerance=5e-6)
    assert operations(model) == {"Transpose": 2, "Conv": 1, "DepthToSpace": 1}
    model = check(lambda x: downsampling_conv(x, jnp.asarray(kernel), "subpixel"), (4, 6, 2), tolerance=5e-6)
    assert operations(model) == {"Transpose": 2, "SpaceToDepth": 1, "Conv": 1}
