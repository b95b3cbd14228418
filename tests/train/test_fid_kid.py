"""Fréchet and kernel distance against SciPy's matrix root, closed forms, and sums written out."""

import math

import numpy as np
import pytest
import scipy.linalg

from train.metrics.diversity import embedding, mean_of_pairs, mean_within_clusters, nearest, squared_distances
from train.metrics.fid import Moments, frechet_distance, moments
from train.metrics.kid import kernel_distance, squared_mmd


def drawn(n, c, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, c)) @ generator.standard_normal((c, c)) + shift


@pytest.mark.parametrize(("n", "m"), [(300, 200), (9, 7)])  # the second: singular covariances, rank 8 and 6 of 12
def test_frechet_distance_is_the_formula_with_scipys_root(n, m):
    x, y = drawn(n, 12, 0), drawn(m, 12, 1, shift=0.5)
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # SciPy's root fails on singular matrices; the nuclear norm of the factors' product is the same number
    a, b = (x - x.mean(0)).T / math.sqrt(n - 1), (y - y.mean(0)).T / math.sqrt(m - 1)
    root = np.trace(scipy.linalg.sqrtm(c_x @ c_y)).real if n > 12 else np.linalg.svd(a.T @ b, compute_uv=False).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c_x) + np.trace(c_y) - 2 * root
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_in_closed_form():
    one, other = Moments(np.zeros(2), np.diag([4.0, 9.0]), 5), Moments(np.array([3.0, 4.0]), np.diag([1.0, 16.0]), 5)
    assert frechet_distance(one, other) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)


def test_the_kernel_distance_written_out():
    x, y = drawn(5, 3, 2), drawn(4, 3, 3)

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    of_x = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    of_y = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(k(a, b) for a in x for b in y) / 20
    assert squared_mmd(x, y) == pytest.approx(of_x + of_y - 2 * across)
    same_size = kernel_distance(x[:4], y, subsets=3)  # every subset is the whole of both
    assert same_size.mean == pytest.approx(squared_mmd(x[:4], y))
    assert same_size.spread == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_of_one_population_is_unbiased_and_the_frechet_distance_is_not():
    population = drawn(4000, 8, 4)
    halves = [population[i * 20 : (i + 1) * 20] for i in range(200)]
    distances = [squared_mmd(a, b) for a, b in zip(halves[::2], halves[1::2], strict=True)]
    error = np.std(distances) / math.sqrt(len(distances))
    assert abs(np.mean(distances)) < 4 * error
    frechet = [frechet_distance(moments(a), moments(b)) for a, b in zip(halves[:20:2], halves[1:20:2], strict=True)]
    assert np.mean(frechet) > 2 * np.std(frechet)


def test_sets_that_are_no_sets():
    with pytest.raises(ValueError, match="1 image can't be compared as a set; at least 2 are needed"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="some features are not finite"):
        moments(np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match="Sets of 3 and 1 images"):
        kernel_distance(np.zeros((3, 2)), np.zeros((1, 2)))


def test_perceptual_distance_is_that_of_directions_and_counts_every_place_once():
    a = np.array([[[[3.0, 0.0], [0.0, 2.0]]]])  # one image of 1 x 2 places
    b = np.array([[[[1.0, 0.0], [5.0, 0.0]]]])  # the same direction, a perpendicular one
    np.testing.assert_allclose(squared_distances(embedding([a]), embedding([b])), [[(0 + 2) / 2]], atol=1e-9)
    np.testing.assert_allclose(squared_distances(embedding([a, a]), embedding([b, b])), [[2.0]], atol=1e-9)


def test_a_generator_that_repeats_its_training_images_has_no_diversity_within_clusters():
    points = np.array([[0.0], [0.0], [0.0], [10.0], [10.0], [10.0]])  # two real images, at 0 and 10, each drawn thrice
    between = squared_distances(points, points)
    cluster = nearest(squared_distances(points, np.array([[0.0], [10.0]])))
    assert mean_of_pairs(between).mean == pytest.approx(60.0)  # 9 of 15 pairs are at 100
    assert mean_within_clusters(between, cluster).mean == 0
    assert mean_within_clusters(between, np.arange(6)) is None
    assert mean_of_pairs(between[:1, :1]) is None
