"""Strided and transposed convolutions: every form against a loop over pixels and taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.blocks.strided import strided_conv, transposed_conv

transposed, strided = (jax.jit(form, static_argnums=(2, 3, 4)) for form in (transposed_conv, strided_conv))


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("form", ["plain", "matmul"])
@given(seed=st.integers(0, 99), k=st.integers(3, 5), h=st.integers(2, 6), padding=st.integers(0, 2), odd=st.booleans())
def test_a_transposed_convolution_adds_each_pixel_at_its_taps(form, seed, k, h, padding, odd):
    size = 2 * h - odd
    x, kernel = drawn(seed, 2, h, h, 3), drawn(seed + 1, k, k, 3, 2)
    expected = np.zeros((2, size, size, 2))
    for i, j, u, v in np.ndindex(h, h, k, k):
        row, column = 2 * i - padding + u, 2 * j - padding + v
        if 0 <= row < size and 0 <= column < size:
            expected[:, row, column] += x[:, i, j] @ kernel[u, v]
    found = transposed(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), size, padding, form)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["plain", "matmul"])
@given(seed=st.integers(0, 99), k=st.integers(3, 5), half=st.integers(2, 4), padding=st.integers(0, 2))
def test_a_strided_convolution_sums_its_taps(form, seed, k, half, padding):
    h = 2 * half
    x, kernel = drawn(seed, 2, h, h, 3), drawn(seed + 1, k, k, 3, 2)
    expected = np.zeros((2, half, half, 2))
    for i, j, u, v in np.ndindex(half, half, k, k):
        row, column = 2 * i - padding + u, 2 * j - padding + v
        if 0 <= row < h and 0 <= column < h:
            expected[:, i, j] += x[:, row, column] @ kernel[u, v]
    found = strided(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), half, padding, form)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("convolution", [strided_conv, transposed_conv])
def test_gradients_of_both_forms_agree(convolution):
    size = 4 if convolution is strided_conv else 15
    x, kernel = jnp.asarray(drawn(0, 2, 8, 8, 3), jnp.float32), jnp.asarray(drawn(1, 4, 4, 3, 2), jnp.float32)
    weight = jnp.asarray(drawn(2, 2, size, size, 2), jnp.float32)

    def gradients(form):
        loss = lambda x, kernel: jnp.sum(weight * convolution(x, kernel, size, 1, form))  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1)))(x, kernel)

    for plain, matmul in zip(gradients("plain"), gradients("matmul"), strict=True):
        np.testing.assert_allclose(plain, matmul, rtol=1e-4, atol=1e-4)
