"""Faults 9 and 10: triggers without frames, frames without triggers, double triggers; more parts than the line takes.

The agent with a real broker; the cameras are the test's own, so that each frame comes when it says so.
"""

import numpy as np
import pytest
import stand_in_engines
from line import draw_parts, make_line
from plc import LineCamera, Plc, live, run_with_cameras, wait_for_balance, wait_for_verdicts
from stand_in_engines import SLOW
from tiny_bundle import parts

pytestmark = pytest.mark.broker

TOP = "faultline/v1/plant/l1/s1/top"
ALL = "faultline/v1/plant/l1/s1/all"
WINDOW_MS = 1000.0


def triggered_line(folder, port, names=("top",), **changes):
    """Announced by messages; `run_with_cameras` gives it its cameras."""
    sections = {
        "parts": {"trigger": "mqtt", "window_ms": WINDOW_MS},
        "health_interval_s": 0.1,
        "cameras": {name: {"kind": "folder", "path": name} for name in names},
        **changes,
    }
    config = make_line(folder, port=port, **sections)
    draw_parts(folder / "parts", parts(10))
    return config


def test_fault_9_each_trigger_has_one_verdict_with_or_without_its_frame(tmp_path, broker, subscriber, monkeypatch):
    camera = LineCamera(np.repeat(parts(1), 6, axis=1).repeat(6, axis=2))  # a good one, again and again
    plc = Plc(broker.port, topic=f"{TOP}/trigger")

    def have(count):
        subscriber.wait_for(lambda s: len(s.keys) >= count, timeout=60.0)

    def drive():
        plc.wait_until_heard(subscriber)
        plc.trigger("t0", part="p0")
        camera.expose()
        have(1)
        plc.trigger("t1", part="p1")  # its frame never comes
        have(2)
        camera.expose()  # its trigger never comes
        have(3)
        plc.trigger("t3", part="p3")
        plc.trigger("t3", part="p3")  # a double trigger
        camera.expose()
        have(5)
        plc.trigger("t5", part="p3")  # the light barrier bounced: another id, the same part, and a frame of its own
        camera.expose()
        have(6)
        camera.expose()  # a frame may come before its message, too
        plc.trigger("t6", part="p6")
        have(7)
        wait_for_balance(subscriber, 7)

    summary, given = run_with_cameras(
        triggered_line(tmp_path, broker.port), {"top": live("top", camera)}, drive, monkeypatch
    )
    plc.close()
    found = wait_for_verdicts(subscriber, 7)
    assert [(result["trigger_id"], result["verdict"], result["reason"]) for result in found] == [
        ("t0", "pass", None),
        ("t1", "unknown", "no_frame"),
        (None, "unknown", "orphan"),
        ("t3", "pass", None),
        ("t3", "unknown", "duplicate"),
        ("t5", "unknown", "duplicate"),
        ("t6", "pass", None),
    ]
    assert [result["sequence"] for result in found] == list(range(7))
    assert len(given) == len(subscriber.results) == 7  # one each, and none twice
    assert summary.left == 0
    health = wait_for_balance(subscriber, 7)
    assert (health["no_frame"], health["orphan"], health["duplicate"]) == (1, 1, 2)


def test_fault_9_a_view_that_is_missing_makes_no_pass_and_hides_no_reject(tmp_path, broker, subscriber, monkeypatch):
    good, bad = parts(16)[0], parts(16)[-1]
    top, side = (LineCamera(np.stack(pictures)) for pictures in ((good, bad, good), (good,)))
    plc = Plc(broker.port, topic=f"{ALL}/trigger")

    def drive():
        plc.wait_until_heard(subscriber)
        for number in range(3):
            plc.trigger(f"t{number}")
            top.expose()
            if number == 0:
                side.expose()
            subscriber.wait_for(lambda s, number=number: len(s.keys) > number, timeout=60.0)

    cameras = {"top": live("top", top), "side": live("side", side)}
    run_with_cameras(triggered_line(tmp_path, broker.port, ("top", "side")), cameras, drive, monkeypatch)
    plc.close()
    found = wait_for_verdicts(subscriber, 3)
    assert [(result["verdict"], result["reason"]) for result in found] == [
        ("pass", None), ("reject", None), ("unknown", "missing_view"),
    ]  # fmt: skip
    for result in found[1:]:
        reasons = {view["camera"]: view["reason"] for view in result["views"]}
        assert reasons == {"top": None, "side": "no_frame"}


def test_fault_10_more_triggers_than_the_line_takes_all_have_their_verdicts(tmp_path, broker, subscriber, monkeypatch):
    """300 at once, an engine that takes 4 ms each and one second for the first: a queue of 4, the rest is overrun."""
    n, queue = 300, 4
    slow = stand_in_engines.marked(parts(1), 0, SLOW)
    camera = LineCamera(np.concatenate([slow, parts(1).repeat(n, axis=0)]))
    plc = Plc(broker.port, topic=f"{TOP}/trigger")

    def drive():
        plc.wait_until_heard(subscriber)
        for number in range(n):
            plc.trigger(f"t{number}")
            camera.expose()
        subscriber.wait_for(lambda s: len(s.keys) >= n, timeout=60.0)
        wait_for_balance(subscriber, n)
        plc.trigger("afterwards")  # the line is as it was
        camera.expose()
        subscriber.wait_for(lambda s: len(s.keys) > n, timeout=60.0)

    sections = {"trigger": "mqtt", "window_ms": 10_000.0, "queue": queue}
    _, given = run_with_cameras(
        triggered_line(tmp_path, broker.port, parts=sections), {"top": live("top", camera)}, drive, monkeypatch,
        opener=stand_in_engines.open_stand_in,
    )  # fmt: skip
    plc.close()
    found = wait_for_verdicts(subscriber, n + 1)
    assert [result["trigger_id"] for result in found] == [*(f"t{number}" for number in range(n)), "afterwards"]
    reasons = [result["reason"] for result in found]
    assert set(reasons) == {None, "overrun"}
    assert found[-1]["verdict"] == "pass"
    assert reasons.count("overrun") > n / 2
    assert all(result["image_score"] is None for result in found if result["reason"])  # no pass for what nobody scored
    health = wait_for_balance(subscriber, n)
    assert health["overrun"] == reasons.count("overrun")
    assert len(given) == n + 1


def test_fault_10_what_is_late_is_never_a_pass_and_latency_stays_bounded(tmp_path, broker, subscriber, monkeypatch):
    """Some parts take the engine a second, and the deadline is 700 ms: those behind them are late, too, and skipped."""
    n, deadline_ms = 60, 700.0
    images = parts(1).repeat(n, axis=0)
    images[[0, 2, 20, 40], 0, 0] = SLOW
    camera = LineCamera(images)
    monkeypatch.setattr("edge_agent.cameras.live.QUEUED_SHOTS", n)  # the burst is to be late, not refused at the camera
    plc = Plc(broker.port, topic=f"{TOP}/trigger")

    def drive():
        plc.wait_until_heard(subscriber)
        for number in range(n):
            plc.trigger(f"t{number}")
            camera.expose()
        subscriber.wait_for(lambda s: len(s.keys) >= n, timeout=60.0)
        wait_for_balance(subscriber, n)

    sections = {"trigger": "mqtt", "window_ms": 10_000.0, "queue": 1000, "deadline_ms": deadline_ms}
    run_with_cameras(
        triggered_line(tmp_path, broker.port, parts=sections), {"top": live("top", camera)}, drive, monkeypatch,
        opener=stand_in_engines.open_stand_in,
    )  # fmt: skip
    plc.close()
    found = wait_for_verdicts(subscriber, n)
    assert {result["reason"] for result in found} <= {None, "late"}
    late = [result for result in found if result["reason"] == "late"]
    assert late
    assert all(result["latency_ms"] <= deadline_ms for result in found if result["verdict"] == "pass")
    assert all(result["verdict"] == "unknown" and result["image_score"] is None for result in late)
    assert f"deadline_ms is {deadline_ms:g}" in late[0]["detail"]
    assert found[0]["reason"] == "late"  # scored, and too late
    assert found[2]["latency_ms"] - found[0]["latency_ms"] < 900  # it would have taken the engine another second
    assert wait_for_balance(subscriber, n)["late"] == len(late)
