"""Which images become the golden set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from untrained_run import make_run

from edge_agent.bundle import Golden
from export.detector import LineScorer
from export.errors import InputError
from export.golden import GOLDEN_IMAGES, choose, golden_set, score_candidates
from export.precision.loss import Candidates
from train.run import read_held_out, write_held_out


@settings(max_examples=200, deadline=None)
@given(
    good=st.lists(st.floats(0.1, 1.2), min_size=1, max_size=32),
    stained=st.lists(st.floats(0.5, 9.0), min_size=1, max_size=64),
)
def test_half_are_nearest_the_threshold_and_both_kinds_are_there(good, stained):
    scores = np.array(good + stained)
    is_good = np.arange(len(scores)) < len(good)
    chosen = choose(scores, is_good)
    assert len(chosen) == min(GOLDEN_IMAGES, len(scores)) == len(set(chosen.tolist()))
    nearest = np.sort(np.abs(scores - 1))[: len(chosen) // 2]
    np.testing.assert_array_equal(np.sort(np.abs(scores[chosen] - 1))[: len(nearest)], nearest)
    if len(scores) >= 2 * GOLDEN_IMAGES and min(len(good), len(stained)) >= GOLDEN_IMAGES:
        assert is_good[chosen].sum() >= GOLDEN_IMAGES // 4
        assert (~is_good[chosen]).sum() >= GOLDEN_IMAGES // 4


def test_the_rest_spreads_from_the_lowest_to_the_highest_score():
    scores = np.concatenate([np.linspace(0.2, 1.0, 20), np.linspace(0.9, 8.0, 20)])
    chosen = choose(scores, np.arange(40) < 20)
    assert {0, 39} <= set(chosen.tolist())


@pytest.mark.parametrize("held_out", [4, 40])
def test_golden_images_are_held_out_ones_and_stained_copies(tmp_path, held_out):
    run = make_run(tmp_path, held_out=held_out)
    scorer = LineScorer(run, run.thresholds)
    counted = []
    golden = golden_set(score_candidates(run, scorer, lambda done, total: counted.append((done, total))))
    assert len(golden.images) == GOLDEN_IMAGES
    assert counted[-1][0] == counted[-1][1] >= 32
    good = read_held_out(run)[0]
    differing = np.array([np.mean(np.any(image != good, axis=-1), axis=(1, 2)).min() for image in golden.images])
    assert np.sum(differing == 0) >= 4  # the held-out image itself
    assert np.sum(differing > 0) >= 4
    assert np.all(differing < 0.5)  # the stain covers a part; the rest is the image
    np.testing.assert_allclose(golden.image_score, golden.raw_score / run.thresholds.image, rtol=1e-6)
    raw, maps = run.score_batch(golden.images)
    np.testing.assert_allclose(golden.raw_score, raw, rtol=1e-5)
    np.testing.assert_allclose(golden.anomaly_map, maps / run.thresholds.pixel, rtol=1e-4, atol=1e-5)


def test_the_same_run_gives_the_same_golden_set(untrained_run):
    scorer = LineScorer(untrained_run, untrained_run.thresholds)
    first, second = (golden_set(score_candidates(untrained_run, scorer)) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)


def test_a_run_without_held_out_images_is_refused(tmp_path):
    run = make_run(tmp_path)
    write_held_out(tmp_path, np.zeros((0, 64, 64, 3), np.uint8), [])
    with pytest.raises(InputError, match="has no held-out images to check engines with. Train with more good images"):
        score_candidates(run, LineScorer(run, run.thresholds))


def scored(image_score) -> Candidates:
    scores = np.asarray(image_score, np.float32)
    images = np.arange(len(scores), dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
    return Candidates(Golden(images, scores, scores, np.ones((len(scores), 2, 2), np.float32)), scores <= 1)


@settings(max_examples=100, deadline=None)
@given(scores=st.lists(st.floats(0.5, 2.0), min_size=24, max_size=64), undecided=st.sampled_from([0.01, 0.05]))
def test_no_golden_image_lies_where_its_verdict_is_rounding(scores, undecided):
    scores = [*scores, 0.6, 0.7, 1.4, 1.5]
    golden = golden_set(scored(scores), undecided)
    assert np.all(np.abs(golden.image_score - 1) >= undecided)
    nearest = min(abs(score - 1) for score in map(np.float32, scores) if abs(score - 1) >= undecided)
    assert np.abs(golden.image_score - 1).min() == nearest
    np.testing.assert_array_equal(golden.image_score, np.float32(scores)[golden.images[:, 0, 0, 0]])


def test_a_run_whose_scores_all_lie_at_the_threshold_has_no_golden_set_for_int8():
    with pytest.raises(InputError, match=r"Of 20 held-out and stained images 18 score within 5\.0% of the threshold"):
        golden_set(scored([0.97, 1.02] * 9 + [0.5, 1.5]), 0.05)
