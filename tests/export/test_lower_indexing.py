"""Parts of arrays and arrays put together."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from onnx_against_jax import channels_first, check, few, operations

from export.lower import LoweringError

small = st.integers(1, 5)
shapes = st.tuples(small, small, small)


def along(axis, part):
    return tuple(part if place == axis else slice(None) for place in range(4))


@few
@given(shape=shapes, axis=st.integers(1, 3), start=st.integers(0, 4), step=st.integers(1, 3))
def test_slices(shape, axis, start, step):
    part = along(axis, slice(min(start, shape[axis - 1] - 1), None, step))
    check(lambda x: channels_first(x)[part] * 2, shape)


def test_slice_primitive_with_steps_on_two_axes():
    check(lambda x: lax.slice_in_dim(channels_first(x)[:, 1:5:2, 4:, ::3], 0, 1, axis=1), (6, 5, 7), proves="slice")


@few
@given(shape=shapes, first=st.integers(-2, 1), seed=st.integers(0, 99))
def test_numpy_indices_of_several_axes(shape, first, seed):
    """With a symbolic batch JAX writes x[:, a, b:c:d, places] as one gather of all axes."""
    h, w, c = (n + 1 for n in shape)
    places = np.random.default_rng(seed).integers(0, c, 3)

    def function(x):
        x = channels_first(x)
        return x[:, first, 1:] * 2, x[:, ::2, :, 0], x[:, 1:, None, ::-1], x[:, :, 1][..., places], x[..., places, None]

    check(function, (h, w, c))


@few
@given(shape=shapes, axis=st.integers(1, 3))
def test_one_element_and_the_last_one(shape, axis):
    check(lambda x: (channels_first(x)[along(axis, 0)] + 1, channels_first(x)[along(axis, -1)]), shape)


@few
@given(shape=shapes, axis=st.integers(1, 3), seed=st.integers(0, 99))
def test_gather_by_known_places(shape, axis, seed):
    places = np.random.default_rng(seed).integers(0, shape[axis - 1], 6)
    check(lambda x: jnp.take(channels_first(x), places, axis=axis) + 1, shape, proves="gather")


@few
@given(n=st.integers(2, 9), seed=st.integers(0, 99))
def test_permuted_channels_need_no_transpose(n, seed):
    order = np.random.default_rng(seed).permutation(n)
    model = check(lambda x: jnp.sum(channels_first(x)[..., order] * np.arange(n, dtype=np.float32), -1), (3, 2, n))
    assert operations(model)["Transpose"] == 1


def test_evenly_spaced_places_become_a_slice():
    model = check(lambda x: jnp.take(channels_first(x), np.array([1, 3, 5]), axis=1), (7, 3, 2))
    assert operations(model)["Slice"] == 1
    assert "Gather" not in operations(model)


@pytest.mark.parametrize("places", [[3, 2, 1, 0], [4, 2, 0], [2, 2, 2], [1, 3, 2]])
def test_places_that_run_backwards_stay_or_jump(places):
    check(lambda x: jnp.take(channels_first(x), np.array(places), axis=1), (5, 3, 2), proves="gather")


def test_gather_of_one_place_drops_the_axis():
    check(lambda x: jnp.take(channels_first(x), 2, axis=3) * 2, (2, 3, 4), proves="gather")


@few
@given(shape=shapes, axis=st.integers(1, 3), start=st.integers(-3, 7))
def test_dynamic_slices_stay_inside_as_in_jax(shape, axis, start):
    length = max(1, shape[axis - 1] - 1)
    check(lambda x: lax.dynamic_slice_in_dim(channels_first(x), start, length, axis), shape)


def test_dynamic_slice_primitive():
    check(lambda x: lax.dynamic_slice_in_dim(channels_first(x), jnp.int32(9), 2, 1), (5, 3, 2), proves="dynamic_slice")


@few
@given(shape=shapes, axes=st.sets(st.integers(1, 3), min_size=1))
def test_reverse(shape, axes):
    check(lambda x: jnp.flip(channels_first(x), tuple(axes)), shape, proves="rev")


@few
@given(
    shape=shapes,
    low=st.integers(-2, 3),
    high=st.integers(-2, 3),
    axis=st.integers(1, 3),
    value=st.floats(-2, 2, width=32),
)
def test_padding_and_cutting_off(shape, low, high, axis, value):
    if shape[axis - 1] + low + high < 1:
        low = high = 1
    config = [(low, high, 0) if place == axis else (0, 0, 0) for place in range(4)]
    check(lambda x: lax.pad(channels_first(x), jnp.float32(value), config), shape, proves="pad")


@few
@given(
    shape=st.tuples(st.integers(3, 5), st.integers(3, 5), st.integers(1, 2)),
    mode=st.sampled_from(["reflect", "symmetric"]),
)
def test_padding_by_reflection(shape, mode):
    check(lambda x: jnp.pad(channels_first(x), ((0, 0), (1, 2), (2, 1), (0, 0)), mode=mode), shape)


@few
@given(shape=shapes, axis=st.integers(1, 3), second_is_turned=st.booleans())
def test_concatenate_tensors_and_constants(shape, axis, second_is_turned):
    constant = np.ones((*shape[: axis - 1], 2, *shape[axis:]), np.float32)

    def function(x, y):
        y = channels_first(y) if second_is_turned else y
        table = jnp.broadcast_to(constant, (x.shape[0], *constant.shape))
        return jnp.concatenate([channels_first(x), table, y], axis=axis)

    check(function, shape, shape, proves="concatenate")


def test_concatenate_a_tensor_stretched_by_broadcasting():
    def function(x):
        mean = jnp.broadcast_to(jnp.mean(x, axis=(1, 2), keepdims=True), x.shape)
        return jnp.concatenate([channels_first(x), mean], axis=-1)

    check(function, (3, 2, 4), tolerance=5e-6)


@few
@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4), axis=st.integers(1, 3))
def test_split(sizes, axis):
    shape = [sum(sizes) if place == axis else 2 for place in range(1, 4)]
    check(lambda x: lax.split(channels_first(x), sizes, axis), shape, proves="split")


def test_an_index_outside_is_refused():
    with pytest.raises(LoweringError, match="an index lies outside the axis of 4"):
        check(lambda x: x.at[:, np.array([1, 7])].get(mode="fill"), (4,))


def near_the_table(generator, shape):
    """Some lie outside of a table of 7."""
    return generator.integers(-3, 10, shape)


@few
@given(shape=st.lists(small, max_size=2), axis=st.integers(0, 2), dtype=st.sampled_from([np.int32, np.uint8]))
def test_rows_of_a_table_by_numbers_that_come_in(shape, axis, dtype):
    sizes = [2, 3, 4]
    sizes[axis] = 7
    table = np.random.default_rng(axis).standard_normal(sizes).astype(np.float32)
    draw = near_the_table if dtype == np.int32 else (lambda *given: np.abs(near_the_table(*given)))
    check(lambda i: jnp.take(table, i, axis=axis, mode="clip") + 1, shape, proves="gather", dtype=dtype, draw=draw)


def test_rows_of_a_table_that_comes_in_too():
    check(lambda x: jnp.take(jnp.sum(channels_first(x), axis=0), jnp.argmax(x, axis=1), axis=1, mode="clip"), (3, 4, 2))


def test_indices_that_depend_on_the_image_and_may_miss_are_refused():
    with pytest.raises(LoweringError, match="outside of the table it gives NaN; write jnp.take"):
        check(lambda x: jnp.take(jnp.arange(5.0), jnp.argmax(x, axis=1)), (5,))
    with pytest.raises(LoweringError, match="its indices depend on the input; such indices are lowered for whole rows"):
        check(lambda x: jnp.ones((5, 4))[jnp.argmax(x, axis=1), jnp.argmin(x, axis=1)], (5,))


def test_several_indexed_axes_are_refused():
    with pytest.raises(LoweringError, match="indexing several axes together is not lowered; index one axis after the"):
        check(lambda x: x[:, np.array([0, 1]), np.array([1, 0])], (2, 2))
