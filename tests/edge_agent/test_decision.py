"""A pass is earned, every doubt is unknown, and regions lie where the defect is."""

from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decision import Region, UnknownReason, decide, unknown
from edge_agent.engines import Scores
from edge_agent.preprocess import Preprocessing, prepare


def scores(image_score=0.5, anomaly_map=None, raw_score=3.0) -> Scores:
    if anomaly_map is None:
        anomaly_map = np.random.default_rng(0).random((8, 10))
    return Scores(np.float32([image_score]), np.float32(anomaly_map)[None], np.float32([raw_score]))


def with_pixel(value, anomaly_map=None) -> np.ndarray:
    anomaly_map = np.random.default_rng(0).random((8, 10)) if anomaly_map is None else anomaly_map
    anomaly_map[3, 4] = value
    return anomaly_map


@pytest.mark.parametrize(
    ("score", "limit", "verdict"),
    [(0.0, 1.0, "pass"), (1.0, 1.0, "pass"), (1.0000001, 1.0, "reject"), (1.4, 1.5, "pass"), (0.9, 0.8, "reject")],
)
def test_score_above_the_limit_is_rejected_and_on_it_passes(score, limit, verdict):
    decision = decide(scores(score), limit)
    assert (decision.verdict, decision.reason) == (verdict, None)


NAN, INF = float("nan"), float("inf")
DOUBTS = {
    "score nan": (scores(NAN), "not_finite"),
    "score inf": (scores(INF), "not_finite"),
    "score -inf": (scores(-INF), "not_finite"),
    "raw nan": (scores(raw_score=NAN), "not_finite"),
    "one pixel nan": (scores(anomaly_map=with_pixel(NAN)), "not_finite"),
    "one pixel inf": (scores(anomaly_map=with_pixel(INF)), "not_finite"),
    "all nan": (scores(anomaly_map=np.full((8, 10), NAN)), "not_finite"),
    "score negative": (scores(-0.001), "negative_score"),
    "raw negative": (scores(raw_score=-1), "negative_score"),
    "one pixel negative": (scores(anomaly_map=with_pixel(-0.1)), "negative_score"),
    "map of one value": (scores(anomaly_map=np.full((8, 10), 0.3)), "constant_map"),
    "map of zeros": (scores(0, anomaly_map=np.zeros((8, 10)), raw_score=0), "constant_map"),
    "two parts": (Scores(np.float32([0, 0]), np.zeros((2, 8, 10), np.float32), np.float32([0, 0])), "wrong_shape"),
    "no parts": (Scores(np.float32([]), np.zeros((0, 8, 10), np.float32), np.float32([])), "wrong_shape"),
    "no pixels": (scores(anomaly_map=np.zeros((0, 10))), "wrong_shape"),
    "flat map": (Scores(np.float32([0.5]), np.zeros((8, 10), np.float32), np.float32([1])), "wrong_shape"),
    "scalar score": (Scores(np.float32(0.5), np.zeros((1, 8, 10), np.float32), np.float32([1])), "wrong_shape"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_every_doubt_is_unknown_and_names_its_reason(name):
    doubtful, reason = DOUBTS[name]
    decision = decide(doubtful)
    assert (decision.verdict, decision.reason, decision.regions) == ("unknown", reason, ())
    assert reason in get_args(UnknownReason)


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(score=anything, raw=anything, pixels=st.lists(anything, min_size=6, max_size=6))
def test_pass_means_that_every_number_is_sound(score, raw, pixels):
    decision = decide(scores(score, np.reshape(pixels, (2, 3)), raw))
    sound = np.isfinite([score, raw, *pixels]).all() and min(score, raw, *pixels) >= 0 and len(set(pixels)) > 1
    assert decision.verdict == ("unknown" if not sound else "pass" if score <= 1 else "reject")
    assert (decision.reason is None) == sound


@pytest.mark.parametrize("limit", [0.0, -1.0, NAN, INF])
def test_limit_that_would_pass_everything_is_refused(limit):
    with pytest.raises(ValueError, match=r"The limit of the image score is .*; it must be a finite number above 0"):
        decide(scores(), limit)


def test_unknown_has_no_regions():
    assert unknown("overrun").verdict == "unknown"
    assert unknown("overrun").reason == "overrun"


def test_regions_are_8_connected_areas_above_one_with_the_largest_peak_first():
    anomaly_map = np.linspace(0, 0.5, 200, dtype=np.float32).reshape(10, 20)
    anomaly_map[1:3, 2:5] = 1.5
    anomaly_map[3, 5] = 1.75  # touches the corner of the first
    anomaly_map[7, 10:14] = [1.25, 2.0, 4.0, 1.25]
    anomaly_map[9, 0] = 1.0  # on the threshold, not above it
    decision = decide(scores(2, anomaly_map))
    assert decision.regions == (
        Region(box=(10, 7, 14, 8), area_px=4, peak=4.0, peak_at=(12, 7), centroid=(11.5, 7.0)),
        Region(box=(2, 1, 6, 4), area_px=7, peak=1.75, peak_at=(5, 3), centroid=pytest.approx((23 / 7, 12 / 7))),
    )
    assert (decision.size, decision.regions_total) == ((20, 10), 2)


def test_peaks_agree_with_a_slow_search_and_the_cap_keeps_the_largest():
    noise = cv2.GaussianBlur(np.random.default_rng(3).random((64, 80)), (0, 0), 1.5)
    anomaly_map = np.float32(noise / np.quantile(noise, 0.9))
    every = decide(scores(2, anomaly_map), max_regions=10**6)
    assert every.regions_total == len(every.regions) > 20
    count, labels = cv2.connectedComponents((anomaly_map > 1).astype(np.uint8), connectivity=8)
    slow = []
    for label in range(1, count):
        inside = np.where(labels == label, anomaly_map, -1)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        slow.append((float(inside.max()), (int(x), int(y)), int((labels == label).sum())))
    assert [(r.peak, r.peak_at, r.area_px) for r in every.regions] == sorted(slow, reverse=True)
    capped = decide(scores(2, anomaly_map), max_regions=3)
    assert capped.regions == every.regions[:3]
    assert capped.regions_total == every.regions_total


def test_a_part_that_passes_may_show_regions():
    """Pixels above their threshold explain a score; the score decides."""
    decision = decide(scores(0.9, with_pixel(1.5)))
    assert decision.verdict == "pass"
    assert decision.regions_total == 1


def test_regions_are_given_in_pixels_of_the_whole_frame():
    """A square drawn into a frame must come back where it was drawn, through crop and resize."""
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[200:240, 400:432] = 255
    frame[220, 410] = 254
    preprocessing = Preprocessing(width=75, height=50, crop=(300, 100, 300, 200))  # 4 frame pixels to one
    anomaly_map = prepare(frame, preprocessing)[..., 0].astype(np.float32) / 100
    decision = decide(scores(2, anomaly_map), preprocessing=preprocessing, frame_size=(640, 480))
    (region,) = decision.regions
    assert decision.size == (640, 480)
    assert region.box == (400, 200, 432, 240)
    assert region.area_px == 32 * 40
    assert region.centroid == pytest.approx((415.5, 219.5))
    assert region.peak == pytest.approx(2.55)
    assert region.peak_at == (402, 202)  # the middle of the first 4 x 4 block


@given(
    crop=st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 3000), st.integers(1, 3000)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    at=st.tuples(st.integers(0, 39), st.integers(0, 39)),
)
def test_boxes_never_leave_the_crop_and_hold_their_peak(crop, size, at):
    x, y, width, height = crop
    anomaly_map = np.zeros((size[1], size[0]), np.float32)
    anomaly_map[at[1] % size[1], at[0] % size[0]] = 2
    preprocessing, frame_size = Preprocessing(width=size[0], height=size[1], crop=crop), (x + width, y + height)
    for region in decide(scores(2, anomaly_map), preprocessing=preprocessing, frame_size=frame_size).regions:
        x0, y0, x1, y1 = region.box
        assert x <= x0 <= region.peak_at[0] < x1 <= x + width
        assert y <= y0 <= region.peak_at[1] < y1 <= y + height
        assert region.area_px >= 1
