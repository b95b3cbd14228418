"""jax.image.resize equals ONNX for every method and ratio, by name or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_against_jax import channels_first, check, few, operations

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def resized(x, size, method, antialias=True):
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), method, antialias=antialias)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos3"])
@few
@given(size=sizes, new_size=sizes, antialias=st.booleans(), is_turned=st.booleans())
def test_any_method_to_any_size(method, size, new_size, antialias, is_turned):
    """Rounding of nearest, weights at borders, antialiasing where the image shrinks: all are JAX's own."""

    def function(x):
        return resized(channels_first(x) if is_turned else x, new_size, method, antialias)

    check(function, (*size, 2), tolerance=5e-6)


@pytest.mark.parametrize("times", [(2, 2), (3, 2), (1, 4)])
def test_nearest_upsampling_is_one_resize(times):
    size = (4 * times[0], 5 * times[1])
    model = check(lambda x: resized(channels_first(x), size, "nearest"), (4, 5, 3))
    assert operations(model) == {"Transpose": 2, "Conv": 1, "Resize": 1}


@pytest.mark.parametrize("size", [(8, 10), (16, 15), (5, 7), (9, 23)])
def test_linear_upsampling_is_one_resize_of_the_right_size(size):
    model = check(lambda x: resized(channels_first(x), size, "bilinear"), (4, 5, 3))
    assert operations(model) == {"Transpose": 2, "Conv": 1, "Resize": 1}


def test_nearest_reduction_by_a_whole_number_is_a_slice():
    """SPADE's label map; half-pixel centres, so every third pixel starts at the second."""
    model = check(lambda x: resized(channels_first(x), (3, 2), "nearest"), (9, 6, 2))
    assert operations(model)["Slice"] == 2
    assert "Gather" not in operations(model)


@pytest.mark.parametrize("how", ["repeat", "broadcast", "resize", "take"])
def test_upsampling_is_recognised_however_it_is_written(how):
    def function(x):
        x = channels_first(x)
        n, h, w, c = x.shape
        if how == "repeat":
            return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        if how == "broadcast":
            return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
        if how == "take":
            return jnp.take(jnp.take(x, np.arange(2 * h) // 2, axis=1), np.arange(2 * w) // 2, axis=2)
        return resized(x, (2 * h, 2 * w), "nearest")

    model = check(function, (3, 4, 2))
    assert operations(model) == {"Transpose": 2, "Conv": 1, "Resize": 1}


def test_resizes_that_are_not_one():
    """Twice along one axis, and in two ways along two: neither pair is a single Resize."""

    def twice(x):
        return resized(resized(channels_first(x), (6, 4), "bilinear"), (12, 4), "bilinear")

    def two_ways(x):
        return resized(resized(channels_first(x), (6, 4), "nearest"), (6, 8), "bilinear")

    assert operations(check(twice, (3, 4, 2), tolerance=5e-6))["Resize"] == 2
    assert operations(check(two_ways, (3, 4, 2), tolerance=5e-6))["Resize"] == 2


def test_a_function_called_resize_that_does_something_else_is_lowered_as_it_stands():
    @jax.jit
    def _resize(x):
        return x[:, ::-1]

    check(lambda x: _resize(channels_first(x)), (3, 4, 2))


def test_a_map_upsampled_for_the_output():
    """An anomaly map [n, h, w], stored as such, through a linear resize."""

    def function(x):
        small = jnp.mean(channels_first(x) ** 2, axis=-1, keepdims=True)
        return resized(small, (12, 8), "bilinear")[..., 0]

    model = check(function, (3, 2, 5), tolerance=5e-6)
    assert operations(model)["Transpose"] == 1
    assert operations(model)["Resize"] == 1
