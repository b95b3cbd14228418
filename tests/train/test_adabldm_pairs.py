"""AdaBLDM's training pairs: what must hold of a pasted defect wherever it comes to lie."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train.generators.adabldm.pairs import Sources, Turns, make_pairs, place

SIZE, PAIRS = 24, 8
STILL = Turns(degrees=(0.0, 0.0), scale=(1.0, 1.0))
MAKE = jax.jit(make_pairs, static_argnames=("normal_prompt", "turns"))
PLACE = jax.jit(jax.vmap(place, (None, None, 0, None)), static_argnums=3)
KEYS = jax.random.split(jax.random.key(3), 256)  # one number of them: one program for each `Turns`


def drawn(seed: int) -> Sources:
    """Foregrounds and defects of any form and size: a defect may be larger than its object."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]

    def blob(least, most):
        (cy, cx), (ry, rx) = random.uniform(3, SIZE - 3, 2), random.uniform(least, most, 2)
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    masks = np.stack([blob(1, 9) for _ in range(PAIRS)])
    return Sources(
        jnp.asarray(random.integers(0, 100, (PAIRS, SIZE, SIZE, 3), np.uint8)),
        jnp.asarray(np.stack([blob(2, 12) for _ in range(PAIRS)])),
        jnp.asarray(
            np.where(masks[..., None], 250, random.integers(120, 200, (PAIRS, SIZE, SIZE, 3))).astype(np.uint8)
        ),
        jnp.asarray(masks),
        jnp.arange(PAIRS) + 2,
    )


def keys(seed: int):
    return jax.random.split(jax.random.key(seed), PAIRS)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15)
def test_a_defect_lies_within_the_foreground_and_all_else_is_the_normal_image(seed):
    sources = drawn(seed)
    pairs = MAKE(sources, keys(seed), 1, Turns())
    image, trimap = np.asarray(pairs.image), np.asarray(pairs.trimap)
    pasted, foreground = trimap == 1, np.asarray(sources.foreground)
    assert set(np.unique(trimap)) <= {0.0, 0.5, 1.0}
    assert pasted.any(axis=(1, 2)).all(), "however small the object, something is pasted"
    assert not (pasted & ~foreground).any()
    np.testing.assert_array_equal(trimap == 0, ~foreground)
    np.testing.assert_array_equal(image[~pasted], np.asarray(sources.normal)[~pasted])
    assert image[pasted].min() >= 120, "what is pasted is the defect's"
    np.testing.assert_array_equal(pairs.prompt, sources.prompt)
    assert (pasted.sum(axis=(1, 2)) <= 1.4 * np.asarray(sources.mask).sum(axis=(1, 2)) + 4).all()


def test_a_pair_is_its_own_sources_and_keys():
    sources = drawn(5)
    pairs = MAKE(sources, keys(5), 1, Turns())
    order = jnp.array([3, 0, 7, 1, 6, 2, 5, 4])
    again = MAKE(Sources(*(part[order] for part in sources)), keys(5)[order], 1, Turns())
    for one, other in zip(pairs, again, strict=True):
        np.testing.assert_array_equal(one[order], other)


def test_every_place_that_fits_is_taken_as_often_as_any_other():
    """A corner of 3 x 3 in a foreground of 5 x 7 has 15 places, and is not turned or scaled."""
    mask = jnp.zeros((SIZE, SIZE), bool).at[1:4, 2].set(True).at[3, 2:5].set(True)
    foreground = jnp.zeros((SIZE, SIZE), bool).at[19:24, 8:15].set(True).at[:2, 8:15].set(True)  # not across the frame
    placed = np.asarray(PLACE(mask, foreground, KEYS, STILL).mask)
    assert (placed.sum(axis=(1, 2)) == 5).all()
    corners = [tuple(np.argwhere(one)[0]) for one in placed]
    counts = [corners.count((row, column)) for row in range(19, 22) for column in range(8, 13)]
    assert sum(counts) == 256 and min(counts) >= 5 and max(counts) <= 35
    only = np.roll(mask, (7, 9), axis=(0, 1))
    assert (np.asarray(PLACE(mask, jnp.asarray(only), KEYS, STILL).mask) == only).all()


def test_what_is_pasted_is_the_defect_pixel_by_pixel():
    """Each pixel of the defective images says where it is."""
    sources, (y, x) = drawn(2), np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((PAIRS, SIZE, SIZE), bool)
    mask[:, 1:4, 2] = mask[:, 3, 2:5] = True
    of_place = np.broadcast_to(np.stack([10 * y, 10 * x, 0 * x], axis=-1).astype(np.uint8), sources.defective.shape)
    whole = np.ones_like(mask)
    changed = sources._replace(mask=jnp.asarray(mask), foreground=jnp.asarray(whole), defective=jnp.asarray(of_place))
    pairs = MAKE(changed, keys(2), 1, STILL)
    for image, trimap in zip(np.asarray(pairs.image), np.asarray(pairs.trimap), strict=True):
        np.testing.assert_allclose(image[trimap == 1], of_place[0][mask[0]], atol=1e-3)


def test_it_is_turned_and_scaled_as_far_as_it_may_be():
    mask = jnp.zeros((SIZE, SIZE), bool).at[10:13, 5:16].set(True)  # 3 x 11
    whole = jnp.ones((SIZE, SIZE), bool)
    placed = np.asarray(PLACE(mask, whole, KEYS, Turns()).mask)
    heights, widths = (np.array([np.ptp(np.argwhere(one)[:, axis]) + 1 for one in placed]) for axis in (0, 1))
    assert heights.max() >= 11 and heights.min() <= 4
    assert widths.max() >= 11 and widths.min() <= 4
    areas = placed.sum(axis=(1, 2)) / 33
    assert 0.6 < areas.min() < 0.85 and 1.15 < areas.max() < 1.45  # 0.85 ** 2 to 1.15 ** 2, and pixels
    double = np.asarray(PLACE(mask, whole, KEYS, Turns((90.0, 90.0), (2.0, 2.0))).mask)
    rows, columns = np.array([np.ptp(np.argwhere(one), axis=0) for one in double]).T
    assert rows.min() >= 19 and rows.max() <= 22
    assert columns.min() >= 4 and columns.max() <= 6


def test_what_is_larger_than_the_object_becomes_smaller():
    mask = jnp.zeros((SIZE, SIZE), bool).at[2:20, 2:20].set(True)
    foreground = jnp.zeros((SIZE, SIZE), bool).at[8:14, 8:14].set(True)
    placed = np.asarray(PLACE(mask, foreground, KEYS, STILL).mask)
    assert (placed.sum(axis=(1, 2)) >= 16).all() and not (placed & ~np.asarray(foreground)).any()
    pixel = jnp.zeros((SIZE, SIZE), bool).at[6, 6].set(True)
    assert (np.asarray(PLACE(mask, pixel, KEYS, Turns()).mask) == np.asarray(pixel)).all()
    assert not PLACE(mask, jnp.zeros_like(mask), KEYS, Turns()).mask.any()
    assert not PLACE(jnp.zeros_like(mask), foreground, KEYS, Turns()).mask.any()


def test_pairs_without_a_defect_have_two_levels_and_a_prompt_of_their_own():
    sources = drawn(1)
    pairs = MAKE(sources, keys(1), 1, Turns(normal_share=0.5))
    plain = np.asarray(pairs.prompt) == 1
    assert 0 < plain.sum() < PAIRS
    np.testing.assert_array_equal((np.asarray(pairs.trimap) == 1).any(axis=(1, 2)), ~plain)
    np.testing.assert_array_equal(np.asarray(pairs.image)[plain], np.asarray(sources.normal)[plain])
