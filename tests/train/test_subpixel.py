"""The rewrites of convolutions are exact."""

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from train.blocks.subpixel import depth_to_space, downsampling_conv, space_to_depth, upsampling_conv

# Shrinking a failure of compiled code takes minutes and shows nothing that the first failure does not.
UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]
sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None, max_examples=10, phases=UNSHRUNK)
@given(sizes=sizes, seed=st.integers(0, 2**16))
@pytest.mark.parametrize(
    ("convolution", "form", "halve"),
    [(upsampling_conv, "subpixel", 1), (downsampling_conv, "subpixel", 2), (downsampling_conv, "patches", 2)],
)
def test_form_equals_the_plain_convolution_and_its_gradients(convolution, form, halve, sizes, seed):
    n, h, w, c, o = sizes
    with jax.enable_x64(True):
        key_x, key_k, key_y = jax.random.split(jax.random.key(seed), 3)
        x = jax.random.normal(key_x, (n, halve * h, halve * w, c), jax.numpy.float64)
        kernel = jax.random.normal(key_k, (5, 5, c, o), jax.numpy.float64)
        plain, pull_plain = jax.vjp(lambda x, k: convolution(x, k, "plain"), x, kernel)
        fast, pull_fast = jax.vjp(lambda x, k: convolution(x, k, form), x, kernel)
        np.testing.assert_allclose(fast, plain, atol=1e-5)
        g = jax.random.normal(key_y, plain.shape, jax.numpy.float64)
        for ours, theirs in zip(pull_fast(g), pull_plain(g), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_space_to_depth_and_back():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    packed = space_to_depth(x, 2)
    np.testing.assert_array_equal(packed[0, 1, 1, 3:6], x[0, 2, 3])  # row phase 0, column phase 1
    np.testing.assert_array_equal(depth_to_space(packed, 2), x)


def test_upsampling_has_no_patches_form():
    with pytest.raises(ValueError, match="has the forms plain and subpixel"):
        upsampling_conv(jax.numpy.zeros((1, 2, 2, 1)), jax.numpy.zeros((5, 5, 1, 1)), "patches")
