"""Reshapes, transposes and broadcasts keep every value in its place, whatever the stored order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from onnx_against_jax import channels_first, check, few, operations

from export.lower.errors import UnsupportedError
from export.lower.shapes import regroup

small = st.integers(1, 3)


@few
@given(
    shape=st.tuples(small, small, small),
    order=st.permutations(range(4)).filter(lambda order: order != sorted(order)),
    is_turned=st.booleans(),
)
def test_transpose_only_relabels(shape, order, is_turned):
    def function(x):
        x = channels_first(x) if is_turned else x
        return jnp.sum(jnp.transpose(x, order) * 2, axis=order.index(3))

    model = check(function, shape, proves="transpose", tolerance=5e-6)
    assert operations(model)["Transpose"] <= 2  # at the entrance and for the output


@few
@given(
    shape=st.tuples(small, small, small).map(lambda s: tuple(2 * n for n in s)),
    target=st.sampled_from(
        [
            (-1,),
            (2, -1),
            (-1, 2),
            (2, 2, -1),
            "h w c -> h 2 w/2 c",
            "h w c -> hw c",
            "h w c -> h wc",
            "h w c -> h/2 2 w/2 2 c",
            "h w c -> h w 2 c/2",
            "h w c -> 1 h w 1 c",
        ]
    ),
    is_turned=st.booleans(),
)
def test_reshape_within_an_image(shape, target, is_turned):
    h, w, c = shape
    named = {
        "h w c -> h 2 w/2 c": (h, 2, w // 2, c),
        "h w c -> hw c": (h * w, c),
        "h w c -> h wc": (h, w * c),
        "h w c -> h/2 2 w/2 2 c": (h // 2, 2, w // 2, 2, c),
        "h w c -> h w 2 c/2": (h, w, 2, c // 2),
        "h w c -> 1 h w 1 c": (1, h, w, 1, c),
    }

    def function(x):
        x = channels_first(x) if is_turned else x
        return x.reshape(x.shape[0], *named.get(target, target)) + 1

    check(function, shape, proves="reshape")


@few
@given(passes=st.integers(1, 4), shape=st.tuples(small, small, small), form=st.sampled_from(["product", "sum"]))
def test_passes_join_the_batch_and_leave_it(passes, shape, form):
    """Monte-Carlo dropout: [n, h, w, c] -> [n k, h, w, c] -> [n, k, h, w, c], with a symbolic n, and k n in between."""
    mask = np.random.default_rng(0).random((passes, *shape)) < 0.7

    def function(x):
        x = channels_first(x)
        many = jnp.where(mask, x[:, None] / 0.7, 0.0) if form == "product" else x[:, None] + mask
        many = channels_first(many.reshape(-1, *shape))  # k n images are convolved
        many = (many.reshape(x.shape[0], passes, *shape) + x[:, None]).reshape(-1, *shape)
        return jnp.var(many.reshape(-1, passes, *shape), axis=1)

    model = check(function, shape, tolerance=5e-6)
    assert operations(model)["Transpose"] <= 2  # at the entrance, and for the image-shaped output


@few
@given(shape=st.tuples(small, small, small), places=st.sets(st.integers(0, 5), min_size=1, max_size=2))
def test_expand_and_squeeze(shape, places):
    def function(x):
        y = jnp.expand_dims(channels_first(x), tuple(sorted(place % 4 + 1 for place in places)))
        return jnp.squeeze(y * y, tuple(axis for axis in range(1, y.ndim) if y.shape[axis] == 1))

    check(function, shape, proves="squeeze")


@few
@given(shape=st.tuples(small, small, small), stretched=st.integers(1, 4), at=st.integers(1, 4))
def test_broadcast_reaches_the_output_in_full(shape, stretched, at):
    def function(x):
        y = jnp.expand_dims(channels_first(x), at)
        return jnp.broadcast_to(y, [stretched if axis == at else dim for axis, dim in enumerate(y.shape)])

    check(function, shape, proves="broadcast_in_dim")


def test_an_axis_of_size_one_is_stretched():
    check(lambda x: jnp.broadcast_to(channels_first(x), (x.shape[0], 3, 4, 5)), (3, 1, 5))
    check(lambda x: jnp.broadcast_to(channels_first(x)[:, :, :, :, None], (x.shape[0], 3, 2, 1, 4)), (3, 2, 1))


@few
@given(shape=st.tuples(small, small, small), times=st.integers(2, 3), axis=st.integers(0, 3))
def test_repeat_of_any_axis_the_batch_included(shape, times, axis):
    check(lambda x: jnp.repeat(channels_first(x), times, axis=axis), shape)


@few
@given(shape=st.tuples(small, small, small), times=st.integers(2, 3), axis=st.integers(0, 3))
def test_tile_of_any_axis_the_batch_included(shape, times, axis):
    reps = [times if axis == place else 1 for place in range(4)]
    check(lambda x: jnp.tile(channels_first(x), reps) * 2, shape, proves="tile")


def test_a_constant_repeated_for_every_image_stays_small():
    table = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)

    def function(x):
        return jnp.concatenate([channels_first(x), jnp.broadcast_to(table, (x.shape[0], 4, 4, 3))], axis=-1)

    model = check(function, (4, 4, 3))
    assert model.ByteSize() < 2 * table.nbytes + 4000


def test_constants_of_the_batch_shape():
    def function(x):
        return jnp.zeros((x.shape[0], 2)) + jnp.sum(x, axis=1, keepdims=True), jnp.ones((x.shape[0], 3))

    check(function, (2,))


def test_iota_along_the_batch_and_along_other_axes():
    def function(x):
        n = x.shape[0]
        return x + jnp.arange(n, dtype=jnp.float32)[:, None], x * lax.broadcasted_iota(jnp.float32, (n, 4), 1)

    check(function, (4,), proves="iota")


def test_a_norm_that_is_stretched_again():
    check(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), (3, 4), tolerance=5e-6)


(batch,) = jax.export.symbolic_shape("batch")


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((6, 4), (2, 3, 4), [((0,), (0, 1)), ((1,), (2,))]),
        ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
        ((6, 4), (4, 6), [((0, 1), (0, 1))]),
        ((batch, 30, 5), (30 * batch, 5), [((0, 1), (0,)), ((2,), (1,))]),
        ((30 * batch, 5), (batch, 30, 5), [((0,), (0, 1)), ((1,), (2,))]),
        ((30, batch), (batch, 30), [((0, 1), (0, 1))]),
        ((2 * batch, 3), (2, batch, 3), [((0,), (0, 1)), ((1,), (2,))]),
        ((batch, 1, 5), (batch, 5, 1), [((0,), (0,)), ((2,), (1,))]),
        ((1, 1), (1,), []),
    ],
)
def test_smallest_groups_of_equal_size(before, after, groups):
    assert regroup(before, after, batch) == groups


def test_sizes_beyond_multiples_of_the_batch_are_refused():
    with pytest.raises(UnsupportedError, match=r"a size of batch \+ 1 is not a multiple of the batch"):
        regroup((batch + 1, 2), (2, batch + 1), batch)
    with pytest.raises(UnsupportedError, match="changes the number of values"):
        regroup((4,), (5,), batch)


def test_a_transpose_by_einsum():
    check(lambda x: jnp.einsum("nhwc->nchw", channels_first(x)) * 1.5, (3, 2, 4))
