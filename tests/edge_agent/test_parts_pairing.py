"""Which frame belongs to which trigger: one part for each, no frame twice, whatever the order of things."""

from collections import Counter
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.cameras.frame import Frame
from edge_agent.parts import Trigger
from edge_agent.parts.pairing import Pairing

MS = 1_000_000
WINDOW = 100 * MS
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def frame(now, *, asked=None, taken=None, reason=None):
    return Frame("f", NOON, now if taken is None else taken, error=reason and "e", reason=reason, asked=asked)


def trigger(name, now, part=None, product=None):
    return Trigger(name, NOON, now, part, product)


def pairing(ways, announced="message", **options):
    return Pairing(ways, announced, **{"window_ns": WINDOW, **options})


def take_all(line, now):
    parts = []
    while (part := line.take(now)) is not None:
        parts.append(part)
    return parts


WAYS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["asked", "free", "every"]), min_size=1)
TRIGGER = st.tuples(
    st.integers(0, 20), st.none() | st.integers(0, 10), st.booleans(), st.sampled_from([None, None, "!"])
)
FRAME = st.tuples(st.integers(0, 2), st.integers(0, 80), st.sampled_from([None, None, None, "stalled", "black"]))
STEPS = st.lists(
    st.tuples(
        st.integers(0, 60), st.one_of(TRIGGER.map(lambda d: ("trigger", *d)), FRAME.map(lambda d: ("frame", *d)))
    ),
    min_size=5,
    max_size=100,
)


class Recorder:
    """A pairing, and all that went in and came out."""

    def __init__(self, ways, announced, remembered, **options):
        self.ways, self.announced, self.remembered = ways, announced, remembered
        self.line = pairing(ways, announced, remembered=remembered, **options)
        self.now, self.parts = MS, []
        self.triggers, self.known, self.redelivered = [], [], 0
        self.frames = []  # (camera, frame, when it came), in this order
        self.asks = []

    def announce(self, number, part, again, too_late):
        if self.announced == "own" and not self.line.waiting:
            self.line.begin(NOON, self.now)
        if self.announced != "message":
            return
        name = f"t{number}"
        one = trigger(name, self.now, None if part is None else f"p{part}")
        assert self.line.trigger(one, self.now, redelivered=again, too_late=too_late)
        if name in self.known and again:
            self.redelivered += 1
            return
        if name not in self.known:
            self.known = [*self.known, name][-self.remembered :]
        self.triggers.append(one)

    def give(self, index, age, reason):
        camera = sorted(self.ways)[index % len(self.ways)]
        answers = [ask for ask in self.asks if ask.camera == camera]
        if self.ways[camera] == "asked" and reason != "stalled":
            if not answers:
                return
            ask = answers[age % len(answers)]  # some are answered late, some out of order
            self.asks.remove(ask)
            one = frame(self.now, asked=ask.sequence, reason=reason)
        else:
            one = frame(self.now, taken=max(0, self.now - age * MS), reason=reason)
        self.frames.append((camera, one, self.now))
        self.line.frame(camera, one, self.now)

    def take(self):
        self.parts += take_all(self.line, self.now)
        self.asks += self.line.asks()


@settings(max_examples=500, deadline=None)
@given(
    ways=WAYS, steps=STEPS, room=st.integers(1, 4), remembered=st.integers(1, 8), messages=st.booleans(),
    busy=st.integers(1, 9), stop=st.booleans(),
)  # fmt: skip
def test_whatever_the_order_each_trigger_is_one_part_and_no_frame_serves_two(
    ways, steps, room, remembered, messages, busy, stop
):
    announced = "message" if messages else "frame" if "every" in ways.values() else "own"
    seen = Recorder(ways, announced, remembered, room=room)
    line = seen.line
    for number, (wait, (what, *details)) in enumerate(steps):
        seen.now += wait * MS
        (seen.announce if what == "trigger" else seen.give)(*details)
        seen.asks += line.asks()
        assert sum(part.reason is None for part in line._line) <= room
        if number % busy == 0:
            seen.take()
    if stop:
        line.close()
    elif announced == "own":
        for camera in ways:
            line.end(camera)
    seen.now += WINDOW
    seen.take()
    assert not line.waiting  # nothing waits for longer than the window
    assert line._held == 0
    check_triggers(seen)
    check_frames(seen)


def check_triggers(seen):
    parts = seen.parts
    assert [part.sequence for part in parts] == list(range(seen.line.opened))  # gapless, in order
    with_one = [part.trigger for part in parts if part.trigger]
    assert sorted(map(id, with_one)) == sorted(map(id, seen.triggers))  # each one part
    assert seen.line.redelivered == seen.redelivered
    if seen.announced == "message":
        assert {part.reason for part in parts if not part.trigger} <= {"orphan"}
        assert len(parts) == len(seen.triggers) + sum(part.reason == "orphan" for part in parts)
    recent = []  # a part that is named twice within the memory is looked at once
    for part in parts:
        if part.trigger and part.trigger.part and part.reason in (None, "no_frame"):
            assert part.trigger.part not in recent[-1:]
            recent.append(part.trigger.part)
    if seen.announced == "frame" and len(seen.ways) == 1:
        assert len(parts) == sum(one.reason != "stalled" for _, one, _ in seen.frames)


def check_frames(seen):
    arrived = {id(one): (place, camera, when) for place, (camera, one, when) in enumerate(seen.frames)}
    used, newest = Counter(), {}
    for part in seen.parts:
        assert (part.reason is None) == (set(part.views) == set(seen.ways))  # complete, or refused
        for camera, one in part.views.items():
            if id(one) not in arrived:
                assert (one.reason, one.image) == ("no_frame", None)
                continue
            place, given_by, when = arrived[id(one)]
            used[id(one)] += 1
            assert given_by == camera
            assert one.asked in (None, part.sequence)
            if part.trigger and part.ts_mono_ns == part.trigger.ts_mono_ns:
                assert seen.announced == "own" or when - part.ts_mono_ns < WINDOW
            if seen.ways[camera] == "free":
                assert one.ts_mono_ns >= part.ts_mono_ns
            if one.asked is None:
                assert newest.get(camera, -1) < place  # a camera's frames go to parts in their order
                newest[camera] = place
    assert set(used.values()) <= {1}


def test_a_trigger_takes_the_first_frame_that_a_free_camera_took_after_it():
    line = pairing({"top": "free"})
    line.frame("top", frame(5), 5)
    line.trigger(trigger("a", 10), 10)
    line.frame("top", frame(12, taken=9), 12)  # taken before, came after
    assert line.take(12) is None
    right = frame(20)
    line.frame("top", right, 20)
    line.frame("top", frame(30), 30)
    (part,) = take_all(line, 30)
    assert part.views == {"top": right}
    assert (part.sequence, part.ts_mono_ns, part.trigger.trigger_id) == (0, 10, "a")


@pytest.mark.parametrize("frame_first", [True, False])
def test_a_hardware_triggered_frame_and_its_message_meet_in_either_order(frame_first):
    line, one = pairing({"top": "every"}), frame(0)
    steps = [lambda: line.frame("top", one, 0), lambda: line.trigger(trigger("a", 0), 0)]
    for step in steps if frame_first else reversed(steps):
        step()
    (part,) = take_all(line, 0)
    assert (part.trigger.trigger_id, part.views) == ("a", {"top": one})


def test_a_trigger_without_a_frame_and_a_frame_without_a_trigger_are_told_after_the_window():
    line = pairing({"top": "every"})
    line.trigger(trigger("a", 0), 0)
    assert line.take(WINDOW - 1) is None
    assert line.next_due() == WINDOW
    (part,) = take_all(line, WINDOW)
    assert (part.reason, part.detail) == ("no_frame", "No frame of top within 100 ms.")
    line.frame("top", frame(WINDOW), WINDOW)
    assert line.take(2 * WINDOW - 1) is None
    (part,) = take_all(line, 2 * WINDOW)
    assert (part.sequence, part.reason) == (1, "orphan")
    assert part.detail == "A frame of top, and no trigger within 100 ms."
    assert line.trigger(trigger("late", 2 * WINDOW), 2 * WINDOW)  # it is not paired with the orphan
    assert [part.reason for part in take_all(line, 3 * WINDOW)] == ["no_frame"]


def test_one_missing_view_leaves_the_others_to_be_judged():
    line = pairing({"top": "every", "side": "every"}, "frame")
    line.frame("side", frame(0), 0)
    (part,) = take_all(line, WINDOW)
    assert part.reason is None
    assert (part.views["top"].reason, part.views["top"].error) == ("no_frame", "No frame of top within 100 ms.")


def test_a_double_trigger_is_told_by_its_id_or_by_its_part_and_takes_its_own_frame():
    line = pairing({"top": "every"})
    line.trigger(trigger("a", 0, "p1"), 0)
    line.frame("top", frame(1), 1)
    line.trigger(trigger("a", 2, "p2"), 2)
    line.trigger(trigger("b", 3, "p1"), 3)  # the light barrier bounced, and so did the camera's input
    line.trigger(trigger("c", 4, "p3"), 4)
    bounced, right = frame(5), frame(6)
    line.frame("top", bounced, 5)
    line.frame("top", right, 6)
    parts = take_all(line, 6)
    assert [part.reason for part in parts] == [None, "duplicate", "duplicate", None]
    assert parts[1].detail == "The trigger a came before, as part 0 of the sequence."
    assert parts[2].detail == "The part p1 came before, as number 0 of the sequence."
    assert parts[3].views == {"top": right}


def test_what_the_broker_sends_again_is_no_second_part():
    line = pairing({"top": "free"})
    line.trigger(trigger("a", 0), 0)
    assert line.trigger(trigger("a", 1), 1, redelivered=True)
    assert line.trigger(trigger("b", 2), 2, redelivered=True)  # the first that we see of it
    assert len(take_all(line, WINDOW + 2)) == 2
    assert line.redelivered == 1


def test_more_than_the_line_takes_is_overrun_and_its_frame_is_no_other_parts_picture():
    line = pairing({"top": "every"}, room=2)
    for number in range(4):
        line.trigger(trigger(f"t{number}", number), number)
    frames = [frame(10 + number) for number in range(5)]
    for number, one in enumerate(frames[:4]):
        line.frame("top", one, 10 + number)
    parts = take_all(line, 20)
    assert [part.reason for part in parts] == [None, None, "overrun", "overrun"]
    assert [part.views.get("top") for part in parts] == [frames[0], frames[1], None, None]
    line.trigger(trigger("next", 20), 20)
    line.frame("top", frames[4], 21)
    assert line.take(21).views == {"top": frames[4]}


def test_a_trigger_that_was_on_its_way_for_too_long_says_so_and_takes_no_frame():
    line, one = pairing({"top": "every"}), frame(2)
    line.trigger(trigger("old", 0), 0, too_late="It took 812 ms.")
    line.trigger(trigger("new", 1), 1)
    line.frame("top", one, 2)
    parts = take_all(line, 2)
    assert [(part.reason, part.detail) for part in parts] == [("late", "It took 812 ms."), (None, None)]
    assert parts[1].views == {"top": one}


def test_an_answer_that_comes_too_late_is_not_the_next_parts():
    line = pairing({"top": "asked"})
    line.trigger(trigger("a", 0), 0)
    (ask,) = line.asks()
    assert (ask.camera, ask.sequence, ask.until_ns) == ("top", 0, WINDOW)
    assert [part.reason for part in take_all(line, WINDOW)] == ["no_frame"]
    line.trigger(trigger("b", WINDOW), WINDOW)
    line.frame("top", frame(WINDOW + 1, asked=0), WINDOW + 1)
    assert line.take(WINDOW + 1) is None
    right = frame(WINDOW + 2, asked=1)
    line.frame("top", right, WINDOW + 2)
    assert line.take(WINDOW + 2).views == {"top": right}


def test_a_flood_is_bounded_and_counted():
    line = pairing({"top": "every"}, waiting=5)
    taken = [line.trigger(trigger(f"t{number}", 0), 0) for number in range(8)]
    assert taken == [True] * 5 + [False] * 3
    line.frame("top", frame(0), 0)  # of the first
    for _ in range(5):
        line.frame("top", frame(0), 0)
    assert line.unheard == 1
    assert len(take_all(line, WINDOW)) == 5
    assert line.trigger(trigger("t7", WINDOW), WINDOW)  # it was not remembered


def test_memory_stays_flat_while_nothing_ever_answers():
    line = pairing({"top": "asked", "side": "every"}, remembered=10)
    for number in range(1000):
        now = number * 2 * WINDOW
        line.trigger(trigger(f"t{number}", now, f"p{number}"), now)
        line.frame("side", frame(now + WINDOW + 1), now + WINDOW + 1)  # always too late: an orphan
        take_all(line, now + 2 * WINDOW)
        line.asks()
    held = [line._line, line._unclaimed, *line._wanting.values(), line._triggers._known, line._parts._known]
    assert max(map(len, held)) <= 10


def test_recordings_end_together_and_an_uneven_last_part_is_told():
    line = pairing({"top": "asked", "side": "asked"}, "own")
    line.begin(NOON, 0)
    line.frame("top", frame(1, asked=0), 1)
    line.end("side")
    (part,) = take_all(line, 10**12)
    assert part.views["side"].error == "The recording of side has ended."
    even = pairing({"top": "asked"}, "own")
    even.begin(NOON, 0)
    even.end("top")
    assert take_all(even, 1) == []
    assert (even.opened, even.over) == (0, True)


def test_the_agent_announces_no_part_of_a_line_that_is_triggered():
    with pytest.raises(ValueError, match="announced by a message, not by the agent"):
        pairing({"top": "every"}).begin(NOON, 0)


def test_stopping_settles_what_waits_and_takes_no_more():
    line = pairing({"top": "free"}, deadline_ns=7)
    line.trigger(trigger("a", 3), 3)
    line.close()
    assert not line.trigger(trigger("b", 4), 4)
    (part,) = take_all(line, 4)
    assert (part.reason, part.due_ns) == ("no_frame", 10)
    assert part.detail == "No frame of top before the agent was stopped."
    assert line.over
