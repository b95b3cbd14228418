"""Toom-Cook tiles against the convolutions that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.blocks import strided, tiles

PIXELS_FIRST, IMAGES_FIRST = (1, 2, 0, 3), (2, 0, 1, 3)

# kernel, pixels, padding, size: one part or two, one tile or several, a last tile that is half used, edges cut off
SHAPES = [(3, 4, 1, 7), (3, 7, 2, 13), (4, 7, 1, 14), (4, 4, 2, 8), (5, 9, 2, 18), (5, 4, 1, 7), (5, 4, 2, 8)]


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("k", "h", "padding", "size"), SHAPES)
def test_both_convolutions_and_their_gradients_are_those_of_the_plain_form(k, h, padding, size):
    x, wide, kernel = drawn(0, 2, h, h, 3), drawn(1, 2, size, size, 2), drawn(2, k, k, 3, 2)
    plan = tiles.plan(h, k, padding, size)

    @jax.jit
    def by_tiles(x, wide, kernel):
        folded = tiles.fold(kernel, plan)
        up = tiles.transposed_conv(x.transpose(PIXELS_FIRST), folded, plan).transpose(IMAGES_FIRST)
        down = tiles.strided_conv(wide.transpose(PIXELS_FIRST), folded, plan).transpose(IMAGES_FIRST)
        return up, down

    @jax.jit
    def plainly(x, wide, kernel):
        up = strided.transposed_conv(x, kernel, size, padding, "plain")
        return up, strided.strided_conv(wide, kernel.swapaxes(2, 3), h, padding, "plain")

    def close(found, expected):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found / scale, expected / scale, atol=3e-6)  # of float32

    found, back = jax.vjp(by_tiles, x, wide, kernel)
    expected, back_plainly = jax.vjp(plainly, x, wide, kernel)
    jax.tree.map(close, found, expected)
    weights = jax.tree.map(lambda leaf: drawn(3, *leaf.shape), found)
    jax.tree.map(close, jax.jit(back)(weights), jax.jit(back_plainly)(weights))


@pytest.mark.parametrize(("k", "h", "padding", "size"), SHAPES)
def test_a_plan_never_takes_more_products_than_the_taps_that_reach_a_pixel(k, h, padding, size):
    reached = sum(0 <= j + padding - t < 2 * h and (j + padding - t) % 2 == 0 for j in range(size) for t in range(k))
    assert sum(part.cost for part in tiles.plan(h, k, padding, size).parts) <= reached


def test_at_the_border_single_taps_are_taken_as_they_are():
    outputs, costs = zip(*((part.outputs, part.cost) for part in tiles.plan(7, 4, 1, 14).parts), strict=True)
    assert outputs == (1, 12, 1)
    assert costs == (1, 16, 1)  # of 26 taps


@pytest.mark.parametrize(("outputs", "length"), [(4, 2), (4, 3), (3, 2), (1, 1)])
def test_a_minimal_filter_correlates_with_as_few_products_as_points(outputs, length):
    tile, taps, inputs = tiles.minimal_filter(outputs, length)
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=outputs + length - 1), generator.normal(size=length)
    assert len(taps) == len(inputs) == outputs + length - 1
    np.testing.assert_allclose(tile @ ((taps @ kernel) * (inputs @ x)), np.correlate(x, kernel), rtol=1e-12)
