"""Matrix products, and the maps of one axis that many of them are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from onnx_against_jax import channels_first, check, few, operations

small = st.integers(1, 4)


def matrix_of(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@few
@given(
    shape=st.tuples(small, small, small),
    axis=st.integers(1, 3),
    out=small,
    matrix_first=st.booleans(),
    is_turned=st.booleans(),
)
def test_one_axis_through_a_matrix(shape, axis, out, matrix_first, is_turned):
    matrix = matrix_of(shape[axis - 1], out)

    def function(x):
        x = channels_first(x) if is_turned else x
        return jnp.tensordot(matrix, x, (0, axis)) if matrix_first else jnp.tensordot(x, matrix, (axis, 0))

    check(function, shape, proves="dot_general", tolerance=5e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_batch_through_a_matrix_is_refused_or_right(axis):
    def function(x):
        return jnp.tensordot(x, matrix_of(4, 3), (1, 0)) if axis else jnp.tensordot(x, x, (0, 0))

    check(function, (4,), tolerance=5e-6)


def test_linear_layer_on_channels_needs_no_transpose():
    layer = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
    model = check(lambda x: jnp.sum(layer(channels_first(x)), axis=-1), (4, 2, 3), tolerance=5e-6)
    assert operations(model)["Transpose"] == 1
    assert operations(model)["Conv"] == 2  # the linear layer as a 1x1 convolution


@few
@given(shape=st.tuples(small, small), shared=st.booleans())
def test_batched_product_of_two_tensors(shape, shared):
    def function(x, y):
        return jnp.einsum("nij,nkj->nik" if shared else "nij,mkj->nimk", x, y)

    check(function, (3, shape[0]), (2, shape[0]), tolerance=5e-6)


@pytest.mark.parametrize(
    "equation",
    ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd", "nhwc,nhwc->n", "nhwc,nhwc->nhw", "nhwc,nhwd->ncd", "nhwc,nhvc->nhwv"],
)
def test_einsum(equation):
    shapes = {
        "nqhd,nkhd->nhqk": ((3, 2, 4), (5, 2, 4)),
        "nhqk,nkhd->nqhd": ((2, 3, 5), (5, 2, 4)),
        "nhwc,nhvc->nhwv": ((2, 3, 4), (2, 5, 4)),
        "nhwc,nhwd->ncd": ((2, 3, 4), (2, 3, 2)),
    }.get(equation, ((2, 3, 4), (2, 3, 4)))
    check(lambda x, y: jnp.einsum(equation, channels_first(x), channels_first(y)), *shapes, tolerance=5e-6)


def test_attention():
    def function(x):
        q, k, v = jnp.split(nnx.Linear(8, 24, rngs=nnx.Rngs(0))(x), 3, axis=-1)
        heads = [a.reshape(*a.shape[:2], 2, 4) for a in (q, k, v)]
        return jax.nn.dot_product_attention(*heads).reshape(x.shape)

    check(function, (6, 8), tolerance=5e-6)


def test_vector_and_matrix_products():
    check(lambda x: (x @ matrix_of(4), x @ matrix_of(4, 3), matrix_of(2, 4) @ x[..., None]), (4,), tolerance=5e-6)


def test_group_norm_attention_and_silu_block():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
            self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs)
            self.qkv = nnx.Linear(8, 24, rngs=rngs)

        def __call__(self, x):
            x = x + self.conv(nnx.silu(self.norm(x)))
            n, h, w, c = x.shape
            q, k, v = jnp.split(self.qkv(x.reshape(n, h * w, c)), 3, axis=-1)
            weights = nnx.softmax(jnp.einsum("nqc,nkc->nqk", q, k) / c**0.5)
            return x + jnp.einsum("nqk,nkc->nqc", weights, v).reshape(n, h, w, c)

    check(Block(nnx.Rngs(0)), (4, 4, 8), tolerance=1e-5)
