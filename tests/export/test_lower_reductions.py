"""Reductions equal JAX's over any axes of any stored order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from onnx_against_jax import channels_first, check, coins, drawn, few, operations, whole

shapes = st.tuples(*[st.integers(1, 4)] * 3)
axes = st.sets(st.integers(1, 3), min_size=1).map(sorted).map(tuple)
REDUCE = {"reduce_max": jnp.max, "reduce_min": jnp.min, "reduce_prod": jnp.prod, "reduce_sum": jnp.sum}


@pytest.mark.parametrize("primitive", REDUCE)
@few
@given(shape=shapes, axes=axes, keepdims=st.booleans(), is_turned=st.booleans())
def test_reduce(primitive, shape, axes, keepdims, is_turned):
    def function(x):
        x = channels_first(x) if is_turned else x
        return REDUCE[primitive](x, axis=axes, keepdims=keepdims)

    check(function, shape, proves=primitive, tolerance=5e-6)


@pytest.mark.parametrize("primitive", REDUCE)
def test_reduce_integers(primitive):
    check(lambda x: REDUCE[primitive](x, axis=(1, 2)), (3, 2), proves=primitive, dtype=np.int32, draw=whole)


@pytest.mark.parametrize("primitive", REDUCE)
def test_reduce_all_axes_the_batch_included(primitive):
    check(lambda x: REDUCE[primitive](channels_first(x)), (2, 2, 2), proves=primitive, tolerance=5e-6)


@pytest.mark.parametrize(("primitive", "function"), [("reduce_and", jnp.all), ("reduce_or", jnp.any)])
@few
@given(shape=shapes, axes=axes)
def test_reduce_truth_values(primitive, function, shape, axes):
    check(lambda x: function(x, axis=axes), shape, proves=primitive, dtype=np.bool_, draw=coins)


@few
@given(shape=shapes, axes=axes, is_turned=st.booleans())
def test_mean_variance_and_norm(shape, axes, is_turned):
    def function(x):
        x = channels_first(x) if is_turned else x
        return jnp.mean(x, axis=axes), jnp.var(x, axis=axes), jnp.sqrt(jnp.sum(x**2, axis=axes))

    check(function, shape, tolerance=5e-6)


def test_mean_over_the_batch_divides_by_its_size():
    check(lambda x: x - jnp.mean(x, axis=0, keepdims=True), (3, 2), proves="dim_as_value")


@pytest.mark.parametrize(("primitive", "function"), [("argmax", jnp.argmax), ("argmin", jnp.argmin)])
@few
@given(shape=shapes, axis=st.integers(1, 3), is_turned=st.booleans())
def test_first_of_equal_extremes(primitive, function, shape, axis, is_turned):
    def rounded(generator, size):
        return np.round(drawn(generator, size))  # many ties

    def both(x):
        return function(channels_first(x) if is_turned else x, axis=axis)

    check(both, shape, proves=primitive, draw=rounded)


@few
@given(shape=shapes, axis=st.integers(1, 3), reverse=st.booleans())
def test_cumulative_sum(shape, axis, reverse):
    check(lambda x: lax.cumsum(channels_first(x), axis=axis, reverse=reverse), shape, proves="cumsum", tolerance=5e-6)


@few
@given(shape=shapes, axis=st.integers(1, 3))
def test_sort(shape, axis):
    check(lambda x: jnp.sort(channels_first(x), axis=axis), shape, proves="sort")


@few
@given(length=st.integers(1, 9), k=st.integers(1, 9))
def test_top_k_values_and_places(length, k):
    def distinct(generator, size):
        return generator.permuted(np.tile(np.arange(size[-1]), (*size[:-1], 1)), axis=-1)

    check(lambda x: lax.top_k(x, min(k, length)), (3, length), proves="top_k", draw=distinct)


@few
@given(axes=axes)
def test_a_stretched_axis_counts_in_full(axes):
    """A sum over an axis that broadcasting has added is that many times the value, not the value."""

    def function(x):
        stretched = jnp.broadcast_to(channels_first(x)[:, None], (x.shape[0], 5, *x.shape[1:]))
        return jnp.sum(stretched, axis=axes), jnp.max(stretched, axis=axes)

    check(function, (2, 3, 4), tolerance=5e-6)


def test_no_transpose_for_the_variance_over_passes():
    def function(x):
        mask = np.random.default_rng(0).random((1, 6, 4, 4, 3)) < 0.5
        passes = channels_first(x)[:, None] * mask
        return jnp.mean(jnp.var(passes, axis=1), axis=-1)

    model = check(function, (4, 4, 3), tolerance=5e-6)
    assert operations(model)["Transpose"] == 1  # at the entrance


def test_integers_from_bytes_are_summed_as_numbers():
    check(
        lambda x: jnp.sum(x.astype(jnp.float32), axis=-1),
        (5, 3),
        dtype=np.uint8,
        draw=lambda g, s: g.integers(0, 256, s),
    )


def test_logsumexp():
    check(lambda x: jax.nn.logsumexp(x, axis=-1), (4, 5), tolerance=5e-6)


@pytest.mark.parametrize(("channels", "sums"), [(16, 2), (36, 2), (20, 2), (13, 1), (4, 1)])
def test_channels_before_pixels_are_summed_in_two_stages(channels, sums):
    conv = nnx.Conv(3, channels, (3, 3), rngs=nnx.Rngs(0))
    model = check(lambda x: jnp.square(conv(x)).sum(-1), (5, 4, 3), proves="reduce_sum", tolerance=5e-6)
    assert operations(model)["ReduceSum"] == sums
