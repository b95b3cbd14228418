"""What several views come to, and what no score can change."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import clock
from edge_agent.engines import Scores
from edge_agent.health import Tally
from edge_agent.messages import Model, Origin, Topics, View
from edge_agent.outbox import Outbox
from edge_agent.parts import Part, Trigger
from edge_agent.parts.source import PartCounts
from edge_agent.verdict import NO_CODE, result_of, view_of

MODEL = Model(name="dots", version=3, digest="0" * 64, system="tiny")
ORIGIN = Origin("press-7", "all", 41, Topics("faultline", "plant", "l1", "s1", "all"), MODEL, "0.1.0")
SCORES = {"pass": 0.5, "reject": 1.5, "unknown": None}


def view(camera, verdict, reason=None):
    score = SCORES[verdict]
    reason = reason or ("blurred" if verdict == "unknown" else None)
    return View(
        camera=camera, verdict=verdict, reason=reason, detail=f"{camera}.", image_score=score, raw_score=score,
        model=MODEL, regions_total=2, image=None,
    )  # fmt: skip


def part(**options):
    now = time.monotonic_ns()
    return Part(7, clock.utc(), now, {}, Trigger("t", clock.utc(), now, "p", "jar"), id="p", **options)


@pytest.mark.parametrize("verdicts", [*product(("pass", "reject", "unknown"), repeat=3)])
def test_any_reject_rejects_then_any_unknown_is_unknown(verdicts):
    views = [view(camera, verdict) for camera, verdict in zip("abc", verdicts, strict=True)]
    result = result_of(part(), views, ORIGIN, 1.0)
    right = "reject" if "reject" in verdicts else "unknown" if "unknown" in verdicts else "pass"
    assert result.verdict == right
    assert (result.reason is not None) == (right == "unknown")
    assert result.views == tuple(views)
    assert result.image_score == {"reject": 1.5, "unknown": None, "pass": 0.5}[right]
    assert (result.regions_total, result.regions, result.raw_score, result.image) == (6, (), None, None)
    assert (result.result_id, result.trigger_id, result.product, result.part) == ("press-7.all.41.7", "t", "jar", "p")


def test_a_missing_view_is_called_that_and_all_missing_are_no_frame():
    missing = view("b", "unknown", "no_frame")
    assert result_of(part(), [view("a", "pass"), missing], ORIGIN, 1.0).reason == "missing_view"
    assert result_of(part(), [view("a", "unknown", "black"), missing], ORIGIN, 1.0).reason == "missing_view"
    assert result_of(part(), [missing, missing], ORIGIN, 1.0).reason == "no_frame"
    assert result_of(part(), [missing], ORIGIN, 1.0).reason == "no_frame"
    assert result_of(part(), [view("a", "reject"), missing], ORIGIN, 1.0).verdict == "reject"


def test_one_camera_has_no_views_and_all_its_numbers_above():
    one = view("top", "pass")
    result = result_of(part(), [one], ORIGIN, 1.0)
    assert (result.views, result.image_score, result.raw_score, result.regions_total) == ((), 0.5, 0.5, 2)


@given(
    verdicts=st.lists(st.sampled_from(["pass", "reject", "unknown"]), min_size=1, max_size=4),
    refused=st.sampled_from([None, "orphan", "duplicate", "overrun", "no_frame", "late"]),
    paused=st.booleans(),
    overdue=st.booleans(),
)
def test_what_is_refused_paused_or_late_is_unknown_whatever_its_score(verdicts, refused, paused, overdue):
    views = [view(str(camera), verdict) for camera, verdict in enumerate(verdicts)]
    due_ns = time.monotonic_ns() + (-1 if overdue else 10**12)
    result = result_of(part(reason=refused, due_ns=due_ns), views, ORIGIN, 1.0, paused=paused)
    if refused or paused:
        assert (result.verdict, result.reason) == ("unknown", refused or "paused")
    elif overdue and (set(verdicts) == {"pass"} or "reject" in verdicts):
        assert (result.verdict, result.reason) == ("unknown", "late")
    elif overdue:
        assert (result.verdict, result.reason) == ("unknown", "blurred")  # it says more than that it was late as well
    else:
        assert (result.verdict == "pass") == (set(verdicts) == {"pass"})
    if refused or paused or result.reason == "late":
        assert (result.image_score, result.views, result.regions_total) == (None, (), 0)


def test_a_missing_code_is_said_and_changes_no_verdict():
    result = result_of(
        part().named(None), [view("top", "pass").model_copy(update={"detail": None})], ORIGIN, 1.0, no_code=True
    )
    assert (result.verdict, result.part, result.detail) == ("pass", None, NO_CODE)


def test_nobody_who_could_judge_is_unknown_product():
    scores = Scores(np.float32([0.1]), np.zeros((1, 2, 2), np.float32), np.float32([0.1]))
    seen = view_of("top", None, scores, (4, 4), 1.0, "product", "No bundle judges it.")
    assert (seen.verdict, seen.reason, seen.model, seen.image_score) == ("unknown", "product", None, None)


def test_health_has_the_ledger_by_reason(tmp_path):
    tally, outbox = Tally(), Outbox(tmp_path / "outbox.db", max_rows=100, max_bytes=2**20)
    reasons = ["orphan", "duplicate", "duplicate", "overrun", "no_frame", "late"]
    for reason in reasons:
        tally.count(result_of(part(reason=reason), [view("top", "unknown")], ORIGIN, 1.0))
    tally.count(result_of(part(), [view("top", "pass"), view("side", "unknown", "no_frame")], ORIGIN, 1.0))
    tally.count(result_of(part(), [view("top", "pass")], ORIGIN, 1.0), no_code=True)
    counts = PartCounts(opened=10, redelivered=3, dropped=4, late=5, repeated=6, reconnects=7)
    health = tally.health(ORIGIN, outbox, parts=counts, triggers_refused=2)
    assert health.triggers == health.passed + health.rejected + health.unknown + health.parts_in_hand == 10
    assert (health.orphan, health.duplicate, health.overrun, health.no_frame) == (1, 2, 1, 1)
    assert (health.late, health.missing_view, health.no_code) == (1, 1, 1)
    assert (health.triggers_repeated, health.triggers_refused) == (3, 2)
    assert (health.frames_dropped, health.frames_late, health.frames_repeated, health.camera_reconnects) == (4, 5, 6, 7)
    outbox.close()
