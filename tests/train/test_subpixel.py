"""The rewrites of convolutions are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.blocks.subpixel import depth_to_space, downsampling_conv, space_to_depth, upsampling_conv


@pytest.mark.parametrize(("n", "h", "w", "c", "o"), [(1, 1, 1, 1, 1), (2, 4, 3, 3, 2), (1, 2, 5, 2, 4)])
@pytest.mark.parametrize(
    ("convolution", "form", "halve"),
    [(upsampling_conv, "subpixel", 1), (downsampling_conv, "subpixel", 2), (downsampling_conv, "patches", 2)],
)
def test_form_equals_the_plain_convolution_and_its_gradients(convolution, form, halve, n, h, w, c, o):
    """In float64, for maps down to one pixel, where most taps fall outside."""

    @partial(jax.jit, static_argnames="form")
    def output_and_gradients(x, kernel, g, form):
        y, pull = jax.vjp(lambda x, k: convolution(x, k, form), x, kernel)
        return y, *pull(g[:, : y.shape[1], : y.shape[2]])

    with jax.enable_x64(True):
        key_x, key_k, key_g = jax.random.split(jax.random.key(n + h + w), 3)
        x = jax.random.normal(key_x, (n, halve * h, halve * w, c), jnp.float64)
        kernel = jax.random.normal(key_k, (5, 5, c, o), jnp.float64)
        g = jax.random.normal(key_g, (n, 2 * h, 2 * w, o), jnp.float64)
        plain = output_and_gradients(x, kernel, g, "plain")
        for ours, theirs in zip(output_and_gradients(x, kernel, g, form), plain, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_space_to_depth_and_back():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    packed = space_to_depth(x, 2)
    np.testing.assert_array_equal(packed[0, 1, 1, 3:6], x[0, 2, 3])  # row phase 0, column phase 1
    np.testing.assert_array_equal(depth_to_space(packed, 2), x)


def test_upsampling_has_no_patches_form():
    with pytest.raises(ValueError, match="has the forms plain and subpixel"):
        upsampling_conv(jnp.zeros((1, 2, 2, 1)), jnp.zeros((5, 5, 1, 1)), "patches")
