"""Batches: resident and streamed images come in the same order, and every image is seen once per pass."""

from itertools import islice

import cv2
import numpy as np
import pytest

from edge_agent.preprocess import Preprocessing
from train.data.batches import fits, load_images, resident_batches, sample_order, stacked, streamed_batches

SMALL = Preprocessing(width=8, height=8)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for index in range(7):
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (10, 12, 3), np.uint8))
        found.append(path)
    return found


@pytest.mark.parametrize("start", [0, 3])
def test_streamed_batches_are_the_resident_ones(paths, start):
    images = load_images(paths, SMALL)
    resident = list(resident_batches(len(paths), 5, start=start, stop=start + 6, batch=3))
    streamed = list(streamed_batches(paths, SMALL, 5, start=start, stop=start + 6, batch=3))
    assert len(resident) == len(streamed) == 6
    for index, batch in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(images[index], batch)


def test_resumed_order_is_the_unbroken_one():
    unbroken = list(resident_batches(10, 1, start=0, stop=8, batch=4))
    resumed = list(resident_batches(10, 1, start=5, stop=8, batch=4))
    np.testing.assert_array_equal(unbroken[5:], resumed)


def test_every_pass_shows_each_image_once_in_a_new_order():
    order = sample_order(6, seed=3)
    first, second = [order[i] for i in range(6)], [order[i] for i in range(6, 12)]
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert first != [sample_order(6, seed=4)[i] for i in range(6)]


def test_stacked_keeps_what_does_not_fill_a_group():
    groups = list(stacked(iter(np.arange(10).reshape(5, 2)), 2))
    assert [group.shape for group in groups] == [(2, 2), (2, 2), (1, 2)]
    assert list(islice(stacked(iter([]), 2), 1)) == []


def test_fits_counts_bytes():
    assert fits(5461, SMALL, 1)  # 8 * 8 * 3 * 5461 = 1 048 512
    assert not fits(5462, SMALL, 1)
