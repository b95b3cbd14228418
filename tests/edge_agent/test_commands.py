"""Commands without a broker: any bytes, every limit, every reason, and what is remembered."""

import json
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from station import ACK, CMD, ORIGIN, Station, Time, station
from tiny_bundle import tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.cameras import Frame
from edge_agent.commands.audit import AuditLog
from edge_agent.commands.desk import ANSWERS_PER_MINUTE
from edge_agent.commands.limits import Rate, ThresholdBudget
from edge_agent.commands.memory import ORDERS, Memory, Standing, restore
from edge_agent.commands.requests import KNOWN, moment, parse
from edge_agent.config import COMMANDS_REMEMBERED, CommandsConfig, ThresholdLimits
from edge_agent.connection import Received

__all__ = ["station"]

# Any bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "command_id": st.sampled_from(["c-1", "c-2", "", "a b", "x" * 65, "\ud800", "ü", None, 7]) | JSON,
        "command": st.sampled_from([*KNOWN, "explode", "", 1, None]) | JSON,
        "issued_by": st.sampled_from(["engineer", "intruder", "\n"]) | JSON,
        "expires_at": st.sampled_from(["2026-02-30T00:00:00Z", "9999-12-31T23:59:60Z", "2099-01-01T00:00:00Z", "٢"])
        | st.datetimes().map(lambda at: at.isoformat() + "Z")
        | JSON,
        "arguments": st.fixed_dictionaries(
            {},
            optional={
                "threshold": JSON | st.floats(0, 3),
                "undo": st.just(True) | JSON,
                "path": st.sampled_from(["..", ".", "next", "a/b", "\0"]) | JSON,
                "version": st.integers(-1, 9) | JSON,
                "shadow_parts": st.integers(-1, 9) | JSON,
                "camera": st.sampled_from(["top", "side"]) | JSON,
                **dict.fromkeys(("x", "y", "width", "height"), st.integers(-1, 20) | JSON),
            },
        )
        | JSON,
        "secret": JSON,
    },
)
BYTES = st.binary(max_size=5000) | JSON.map(json.dumps).map(str.encode) | NEARLY.map(json.dumps).map(str.encode)
AWKWARD = [
    b"[" * 4000,
    b'{"a":' * 800 + b"1" + b"}" * 800,
    b"1" * 4096,
    b'{"command": "pause", "command": "resume"}',
    b'{"command": ["pause"]}',
    b'{"command": "set_threshold", "arguments": {"threshold": 1e999}}',
    b'{"command": "set_threshold", "arguments": {"threshold": NaN}}',
    b"\xef\xbb\xbf{}",
    b"",
]


@settings(max_examples=400, deadline=None)
@given(BYTES)
def test_any_bytes_are_a_command_or_a_refusal(payload):
    parsed = parse(payload)
    assert (parsed.request is None) != (parsed.refusal is None)
    if parsed.refusal is not None:
        assert parsed.refusal.detail.isprintable()
        assert len(parsed.refusal.detail) < 400


@pytest.mark.parametrize("payload", AWKWARD, ids=lambda payload: repr(payload[:30]))
def test_bytes_that_have_broken_other_parsers_are_refused(payload):
    assert parse(payload).refusal is not None


def test_a_command_that_is_no_word_is_refused_without_repeating_it():
    payload = json.dumps({"command_id": "c1", "command": {"password": "canary"}, "issued_by": "engineer"}).encode()
    refusal = parse(payload).refusal
    assert refusal is not None
    assert "canary" not in refusal.detail
    assert "password" not in refusal.detail


def test_any_traffic_is_answered_or_counted_and_obeys_the_limits(tmp_path):
    received = st.tuples(BYTES, st.sampled_from([CMD, CMD, CMD + "/x", "\x00"]), st.booleans(), st.binary(max_size=300))

    @settings(max_examples=40, deadline=None)
    @given(st.lists(received, max_size=12))
    def play(messages):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            station = Station(Path(folder), per_minute=100)
            for payload, topic, retained, correlation in messages:
                done = len([each for each in station.audited if each["status"] == "done"])
                refused = station.desk.refused
                where = correlation.decode("latin-1")
                station.receive(payload, topic=topic, retained=retained, correlation=correlation, response_topic=where)
                new = len([each for each in station.audited if each["status"] == "done"]) - done
                assert station.desk.refused - refused + new in (1, 0)  # 0: accepted, and still at work
                assert 0.8 <= station.control.orders.threshold <= 1.25
            topics = {row.topic for row in station.outbox.read(after=0, limit=10**6)}
            assert topics <= {ACK, ORIGIN.topics.of("event")} | {t for t in topics if t.startswith(ACK + "/")}
            station.outbox.close()

    play()


def test_nothing_that_was_sent_is_repeated_but_ids_and_verbs(station):
    canary = "hunter2-canary"
    for payload in (
        station.request("pause", arguments={canary: 1}),
        station.request("set_threshold", arguments={"threshold": canary}),
        station.request(canary),
        station.request("pause", issued_by="with space " + canary),
        station.request("pause", expires_at=canary),
        {**station.request("pause"), canary: canary},
        canary.encode(),
    ):
        station.receive(payload)
    assert len(station.audited) == 7
    assert canary not in json.dumps([station.acks, station.audited]) + (station.config.audit_file).read_text()


def test_a_verb_that_nobody_knows_is_refused_with_those_that_are_known(station):
    answer = station.ask(station.request("reboot", arguments={"version": 4}))
    assert (answer["status"], answer["reason"], answer["command"]) == ("rejected", "unknown_command", None)
    assert answer["detail"].startswith("This version doesn't know this command. It knows set_threshold, pause,")


# Time


def test_expiry_counts_from_both_sides(station):
    assert station.ask(station.request("pause", valid_s=-0.5))["reason"] == "expired"
    assert station.ask(station.request("pause", valid_s=301.0))["reason"] == "expires_too_late"
    assert station.ask(station.request("pause", valid_s=299.0))["status"] == "done"
    station.inbox.waiting.append(
        Received(CMD, json.dumps(station.request("resume", valid_s=5.0)).encode(), 9, False, station.time.monotonic)
    )
    station.time.pass_by(6.0)  # it waited here, not on its way
    station.desk.attend(())
    assert station.acks[-1]["reason"] == "expired"


def test_the_messages_own_expiry_counts_by_the_monotonic_clock(station):
    sound = json.dumps(station.request("pause")).encode()
    station.inbox.waiting.append(Received(CMD, sound, 9, False, station.time.monotonic, expiry_s=3))
    station.time.monotonic += 4.0
    station.desk.attend(())
    assert station.acks[-1]["reason"] == "expired"


def test_a_free_running_clock_refuses_unless_the_plant_says_otherwise(tmp_path):
    station = Station(tmp_path, time_sync="free_running")
    assert station.ask(station.request("pause"))["reason"] == "clock_free_running"
    assert not station.control.orders.paused
    station.outbox.close()
    allowed = Station(tmp_path / "other", time_sync="free_running", allow_free_running_clock=True)
    assert allowed.ask(allowed.request("pause"))["status"] == "done"
    assert allowed.ask(allowed.request("resume", valid_s=-1))["reason"] == "expired"
    allowed.outbox.close()


def test_times_are_read_as_they_are_written():
    assert moment("2026-11-21T12:00:00.5Z") == datetime(2026, 11, 21, 12, 0, 0, 500_000, timezone.utc)
    assert moment("2026-11-21T12:00:00.123456789Z").microsecond == 123_456
    with pytest.raises(ValueError, match="day is out of range"):
        moment("2026-02-30T12:00:00Z")


# set_threshold


def test_the_threshold_moves_within_its_limits_and_back(station):
    assert station.set_threshold(1.1)["detail"] == "The threshold went from 1 to 1.1."
    assert station.set_threshold(1.2)["status"] == "done"
    refused = station.set_threshold(1.25)
    assert refused["reason"] == "hourly_limit"
    assert "0 are left of the 0.2 that an hour allows" in refused["detail"]
    assert station.set_threshold(1.26)["reason"] == "out_of_range"
    assert station.set_threshold(1.0)["reason"] == "step_too_large"
    assert (station.undo()["threshold"], station.undo()["threshold"]) == (1.1, 1.0)
    assert station.undo()["reason"] == "nothing_to_undo"
    assert station.control.orders.threshold == 1.0
    station.time.utc += timedelta(hours=5)  # someone sets the clock; the hour is not over
    assert station.set_threshold(1.1)["reason"] == "hourly_limit"
    station.time.pass_by(3601.0)
    assert station.set_threshold(1.1)["status"] == "done"


def test_limits_earlier_values_and_the_hour_survive_a_restart(station):
    station.set_threshold(1.1)
    station.set_threshold(1.05)
    station.restart(cleanly=False)
    assert station.control.orders.threshold == 1.05
    assert station.set_threshold(1.15)["reason"] == "hourly_limit"
    assert station.undo()["threshold"] == 1.1
    station.restart()
    assert station.undo()["threshold"] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 1.6), st.floats(0.0, 4000.0)), max_size=30))
def test_no_series_of_changes_gets_around_the_budget(steps):
    clock, limits, present, made = Time(), ThresholdLimits(), 1.0, []
    budget = ThresholdBudget(limits, monotonic=lambda: clock.monotonic)
    for wanted, wait_s in steps:
        clock.pass_by(wait_s)
        if budget.refuses(present, wanted) is None:
            budget.spend(abs(wanted - present))
            made.append((clock.monotonic, abs(wanted - present)))
            present = wanted
        assert limits.min <= present <= limits.max
        assert sum(size for at, size in made if at > clock.monotonic - 3600.0) <= limits.per_hour + 1e-6
        assert all(size <= limits.step + 1e-6 for _, size in made)


def test_a_threshold_set_by_command_yields_to_the_file_another_bundle_and_a_switch():
    config = CommandsConfig(enabled=True, issuers=("engineer",))
    kept = Standing(1.1, True, (1.0,), (0.1,), 1.0, "b").kept()
    assert restore(kept, config, 1.0, "b") == Standing(1.1, True, (1.0,), (0.1,), 1.0, "b")
    for configured, bundle in ((0.95, "b"), (1.0, "other")):
        found = restore(kept, config, configured, bundle)
        assert (found.threshold, found.earlier, found.paused) == (configured, (), True)  # a pause holds
        assert found.spent == (0.1,)
    narrow = CommandsConfig(enabled=True, issuers=("engineer",), threshold={"min": 0.9, "max": 1.05})
    assert restore(kept, narrow, 1.0, "b").threshold == 1.0
    off = restore(kept, CommandsConfig(), 1.0, "b")
    assert (off.threshold, off.paused) == (1.0, False)  # nobody could resume
    assert restore({ORDERS: b'{"of": "another version"}'}, config, 1.0, "b").threshold == 1.0


# Once or not at all


def test_the_same_id_gets_the_same_answer_and_no_second_effect(station):
    pause = station.request("pause")
    first = station.ask(pause)
    station.ask(station.request("resume"))
    station.restart(cleanly=False)
    station.time.pass_by(1000.0)  # long expired
    assert station.ask(pause) == first
    assert not station.control.orders.paused
    assert station.ask({**pause, "command": "resume"})["reason"] == "id_reused"
    assert station.ask(pause, retained=True)["reason"] == "retained"
    assert station.ask(dict(reversed(pause.items()))) == first  # the order of fields is no difference
    refused = station.request("pause", issued_by="intruder")
    assert station.ask(refused) == station.ask(refused)
    assert station.audited[-1]["reason"] == "unknown_issuer"


def test_a_command_refused_for_the_rate_stays_refused(tmp_path):
    station = Station(tmp_path, per_minute=3)
    for _ in range(3):
        assert station.ask(station.request("pause"))["status"] == "done"
    late = station.request("resume")
    assert station.ask(late)["reason"] == "too_many"
    station.time.pass_by(61.0)
    assert station.ask(late)["reason"] == "too_many"  # its sender was told so
    assert station.ask(station.request("resume"))["status"] == "done"
    station.outbox.close()


def test_a_flood_is_counted_and_fills_no_outbox(station, caplog):
    for n in range(3 * ANSWERS_PER_MINUTE):
        station.receive(b"%d" % n)
        station.receive({"command_id": f"f-{n}", "command": "explode"})
    assert station.desk.refused == 6 * ANSWERS_PER_MINUTE
    assert len(station.audited) == ANSWERS_PER_MINUTE
    assert caplog.text.count("Too many commands are refused") == 1
    assert station.ask(station.request("pause"))["status"] == "done"  # what is allowed still works


def test_memory_is_bounded_and_refusals_push_out_no_accepted_command():
    memory, kept = Memory({}), {}

    def note(name, *, executed):
        for key, value in memory.note(name, "d", b"{}", executed=executed).items():
            if value is None:
                del kept[key]
            else:
                kept[key] = value

    note("precious", executed=True)
    for n in range(COMMANDS_REMEMBERED + 50):
        note(f"refused-{n}", executed=False)
    assert len(kept) == COMMANDS_REMEMBERED + 1
    again = Memory(kept)
    assert again.get("precious") is not None
    assert again.get("refused-49") is None
    assert again.get("refused-50") is not None
    assert Memory({"command/x": b"{}", "command/y": b"\x00"}).get("x") is None  # another version's


def test_rate_and_age_are_bounded_so_that_no_forgotten_id_is_still_valid():
    with pytest.raises(ValueError, match="more than the 1000 commands whose ids are remembered"):
        CommandsConfig(per_minute=100, max_age_s=3600.0)
    with pytest.raises(ValueError, match="enabled commands need issuers"):
        CommandsConfig(enabled=True)
    clock = Time()
    rate = Rate(2, lambda: clock.monotonic)
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    clock.pass_by(60.0)
    assert rate.allows()


def test_what_was_open_at_a_power_cut_is_closed_at_the_next_start(station):
    pause, snapshot = station.request("pause"), station.request("snapshot")
    for each in (pause, snapshot):
        station.inbox.waiting.append(Received(CMD, json.dumps(each).encode(), 9, False, station.time.monotonic))
    station.desk.attend(())
    assert [each["status"] for each in station.acks] == ["accepted", "accepted"]
    station.restart(cleanly=False)
    assert [(each["status"], each["reason"]) for each in station.acks[2:]] == [
        ("done", None),
        ("failed", "interrupted"),
    ]
    assert station.control.orders.paused
    assert [each["status"] for each in station.audited] == ["done", "failed"]
    station.restart(cleanly=False)
    assert len(station.acks) == 4  # once


# Orders, frames, questions


def test_an_ack_waits_until_the_part_in_hand_has_been_handed_on(station):
    assert station.control.take_up().threshold == 1.0  # the decision is at work on a part
    station.receive(station.request("set_threshold", arguments={"threshold": 1.05}))
    assert [each["status"] for each in station.acks] == ["accepted"]
    station.control.hand_on()
    station.desk.attend(station.desk.settled())
    assert [each["status"] for each in station.acks] == ["accepted", "done"]
    assert station.control.take_up().threshold == 1.05


def until_answered(station, count):
    from time import monotonic, sleep

    deadline = monotonic() + 20.0
    while len(station.acks) < count and monotonic() < deadline:
        station.desk.attend(())
        sleep(0.01)


def frame(image=None, **changes):
    return Frame("7.png", datetime.now(timezone.utc), 0, image=image, **changes)


def test_a_snapshot_is_the_next_frame_or_fails(station):
    station.receive(station.request("snapshot"))
    assert station.ask(station.request("snapshot"))["reason"] == "busy"
    station.control.show(6, {"top": frame(np.zeros((4, 5, 3), np.uint8))})
    station.control.show(7, {"top": frame(np.zeros((9, 9, 3), np.uint8))})  # not this one
    until_answered(station, 3)
    assert (station.acks[-1]["status"], station.acks[-1]["result_id"]) == ("done", "press-7.top.41.6")
    assert "5 x 4 pixels" in station.acks[-1]["detail"]
    [picture] = [row for row in station.outbox.read(after=0, limit=100) if row.kind == "image"]
    assert picture.topic == "faultline/v1/plant/l1/s1/top/frame/press-7.top.41.6"
    station.receive(station.request("snapshot"))
    station.control.show(8, {"top": frame(error="It is broken.", reason="bad_frame")})
    until_answered(station, 5)
    assert (station.acks[-1]["status"], station.acks[-1]["detail"]) == ("failed", "It is broken.")


def test_a_snapshot_of_several_cameras_has_a_picture_of_each_that_gave_one(station):
    station.receive(station.request("snapshot"))
    good, broken = frame(np.zeros((4, 5, 3), np.uint8)), frame(error="It is broken.", reason="bad_frame")
    station.control.show(6, {"side": good, "top": broken, "back": good})
    until_answered(station, 2)
    assert station.acks[-1]["detail"].count("5 x 4 pixels, is on") == 2
    assert "It is broken." in station.acks[-1]["detail"]
    pictures = [row.topic for row in station.outbox.read(after=0, limit=100) if row.kind == "image"]
    assert [topic.split("/")[5] for topic in pictures] == ["side", "back"]


def test_a_snapshot_without_a_frame_fails_when_the_command_expires(station):
    station.receive(station.request("snapshot", valid_s=30.0))
    station.time.utc -= timedelta(days=400)  # setting the clock back lends it no more time
    station.time.monotonic += 31.0
    station.desk.attend(())
    assert (station.acks[-1]["status"], station.acks[-1]["reason"]) == ("failed", "no_frame")
    assert station.ask(station.request("resume"))["status"] == "done"
    assert station.ask(station.request("snapshot"))["status"] == "accepted"  # busy no more


def test_a_self_test_says_what_the_engine_in_service_says(tmp_path):
    from edge_agent.engines import open_engine

    bundle = open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))
    wrong = open_bundle(write_bundle(tmp_path / "wrong", model=tiny_model(threshold=120.0)))
    station = Station(tmp_path, bundle=bundle)
    for served, expected in ((bundle, ("done", None)), (wrong, ("failed", "disagrees"))):
        engine = open_engine(served, "onnxruntime", threads=1)
        station.control.connect(lambda judge, image, answer, engine=engine: answer(engine.run(image), None))
        station.receive(station.request("self_test"))
        until_answered(station, len(station.acks) + 1)
        assert (station.acks[-1]["status"], station.acks[-1]["reason"]) == expected
        assert station.acks[-1]["golden"]["n"] == 16
    station.control.connect(lambda judge, image, answer: answer(None, "It fell over."))
    station.receive(station.request("self_test"))
    until_answered(station, len(station.acks) + 1)
    assert (station.acks[-1]["reason"], station.acks[-1]["detail"]) == ("engine_failed", "It fell over.")
    assert station.acks[-1]["golden"] is None
    station.outbox.close()


def test_the_audit_log_rotates_and_its_trouble_stops_nothing(tmp_path, caplog):
    audit = AuditLog(tmp_path / "commands.log", max_bytes=200)
    for n in range(100):
        audit.write({"n": n, "text": "x" * 50})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["commands.log", *(f"commands.log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size <= 200 for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "commands.log").read_text().splitlines()[-1])["n"] == 99
    (tmp_path / "file").write_text("")
    troubled = AuditLog(tmp_path / "file" / "commands.log")
    troubled.write({})
    troubled.write({})
    assert caplog.text.count("can't be written (Not a directory)") + caplog.text.count("(File exists)") == 1
