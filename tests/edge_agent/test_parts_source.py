"""The threads around the pairing: recordings, live cameras and triggers, from both ends."""

import threading
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from edge_agent import clock
from edge_agent.cameras import CameraError, Frame
from edge_agent.cameras.live import LiveCamera, Shot
from edge_agent.cameras.settings import LiveCameraConfig
from edge_agent.parts import Trigger
from edge_agent.parts.settings import PartsConfig
from edge_agent.parts.source import FrameParts, PairedParts, make_source

PATIENCE_S = 60.0
MQTT = PartsConfig(trigger="mqtt", window_ms=60_000.0)


class Recording:
    """So many pictures, as a folder gives them; one of them may be an exception."""

    def __init__(self, name, pictures, broken_at=None):
        self.name, self._pictures, self._broken_at = name, pictures, broken_at
        self.closed = threading.Event()

    def frames(self):
        for number in range(self._pictures):
            if self.closed.is_set():
                return
            if number == self._broken_at:
                raise CameraError(f"{self.name} holds no images any more.")
            image = np.full((4, 4, 3), number % 256, np.uint8)
            yield Frame(f"{self.name}-{number}", clock.utc(), time.monotonic_ns(), image=image)

    def close(self):
        self.closed.set()


class Hardware:
    """A connection to a camera whose frames come when the test says so; as `asked` it answers its triggers."""

    def __init__(self):
        self.arrived = threading.Semaphore(0)
        self._number = 0

    def __call__(self):
        return self

    def read(self, timeout_s):
        if not self.arrived.acquire(timeout=timeout_s):
            return None
        self._number += 1
        image = np.random.default_rng(self._number).integers(40, 200, (24, 24, 3), np.uint8)
        return Shot(image)

    def trigger(self):
        self.arrived.release()

    def close(self):
        pass


def live(connection, mode):
    settings = LiveCameraConfig(stall_s=PATIENCE_S, open_timeout_s=PATIENCE_S, checks={"size": False})
    return LiveCamera(f"The {mode} camera", connection, settings, mode=mode)


def trigger(source, name, **options):
    one = Trigger(name, clock.utc(), time.monotonic_ns(), **options)
    assert source.trigger(one, redelivered=False, too_late=None)
    return one


def test_frames_of_one_camera_are_parts_as_they_ever_were():
    source = make_source({"top": Recording("a", 3)}, PartsConfig(deadline_ms=40.0))
    assert isinstance(source, FrameParts)
    parts = list(source.parts())
    assert [(part.sequence, part.id, list(part.views)) for part in parts] == [(n, f"a-{n}", ["top"]) for n in range(3)]
    assert parts[0].ts_mono_ns == parts[0].views["top"].ts_mono_ns
    assert parts[0].due_ns == parts[0].ts_mono_ns + 40_000_000
    assert source.counts.opened == 3


def test_recordings_of_several_cameras_advance_together_and_end_together():
    source = make_source({"top": Recording("a", 50), "side": Recording("b", 50)}, PartsConfig(id="counter"))
    parts = list(source.parts())
    assert [part.id for part in parts] == [str(n) for n in range(50)]
    for number, part in enumerate(parts):
        assert [part.views[camera].name for camera in ("top", "side")] == [f"a-{number}", f"b-{number}"]
    assert source.counts.opened == 50


def test_a_recording_that_is_shorter_leaves_a_part_with_a_missing_view():
    source = make_source({"top": Recording("a", 3), "side": Recording("b", 2)}, PartsConfig())
    *_, last = parts = list(source.parts())
    assert len(parts) in (2, 3)  # whether it had begun with the third when the other ended
    if len(parts) == 3:
        assert last.views["side"].error == "The recording of side has ended."


def test_a_camera_that_breaks_down_ends_the_line_with_its_sentence_after_all_earlier_parts():
    source = make_source({"top": Recording("a", 9), "side": Recording("b", 9, broken_at=4)}, PartsConfig())
    parts = []
    with pytest.raises(CameraError, match="b holds no images any more"):
        parts.extend(source.parts())
    assert [part.sequence for part in islice(parts, 4)] == [0, 1, 2, 3]


def test_each_trigger_takes_the_next_picture_of_every_recording_and_names_the_part():
    source = make_source({"top": Recording("a", 99), "side": Recording("b", 99)}, MQTT)
    assert isinstance(source, PairedParts)
    with closing(source.parts()) as parts:
        for number in range(5):
            trigger(source, f"t{number}", part=f"p{number}", product="jar")
            part = next(parts)
            assert (part.sequence, part.id, part.product, part.trigger.trigger_id) == (
                number, f"p{number}", "jar", f"t{number}",
            )  # fmt: skip
            assert [part.views[camera].name for camera in part.views] == [f"a-{number}", f"b-{number}"]
    assert source.counts.opened == 5


def test_a_message_asks_a_camera_with_software_trigger():
    hardware = Hardware()
    camera = live(hardware, "asked")
    source = make_source({"top": camera}, MQTT)
    with closing(source.parts()) as parts:
        for number in range(3):
            trigger(source, f"t{number}")
            part = next(parts)
            assert part.views["top"].asked == part.sequence == number
            assert part.views["top"].image is not None
    assert camera.counts.frames == 3  # none that nobody asked for


def test_hardware_frames_and_messages_meet_and_a_frame_alone_is_an_orphan():
    hardware = Hardware()
    source = make_source({"top": live(hardware, "every")}, PartsConfig(trigger="mqtt", window_ms=300.0))
    with closing(source.parts()) as parts:
        trigger(source, "a")
        hardware.arrived.release()
        assert next(parts).reason is None
        hardware.arrived.release()
        orphan = next(parts)
        assert (orphan.reason, orphan.sequence) == ("orphan", 1)
        trigger(source, "b")
        missed = next(parts)
        assert (missed.reason, missed.trigger.trigger_id) == ("no_frame", "b")
    assert source.counts.opened == 3


def test_cameras_that_the_line_triggers_together_make_one_part_of_each_trigger():
    ways = {"top": Hardware(), "side": Hardware()}
    source = make_source({name: live(each, "every") for name, each in ways.items()}, PartsConfig(window_ms=400.0))
    with closing(source.parts()) as parts:
        for number in range(3):
            for each in ways.values():
                each.arrived.release()
            part = next(parts)
            assert (part.sequence, {view.image is not None for view in part.views.values()}) == (number, {True})
        ways["top"].arrived.release()
        lame = next(parts)
        assert lame.views["side"].error == "No frame of side within 400 ms."
        assert lame.views["top"].image is not None


def test_more_triggers_than_the_line_takes_all_come_out():
    source = make_source({"top": Recording("a", 10**6)}, PartsConfig(trigger="mqtt", window_ms=60_000.0, queue=4))
    for number in range(300):
        trigger(source, f"t{number}")
    with closing(source.parts()) as parts:
        found = list(islice(parts, 300))
    assert [part.trigger.trigger_id for part in found] == [f"t{number}" for number in range(300)]
    assert [part.reason for part in found] == [None] * 4 + ["overrun"] * 296


def test_triggers_from_many_threads_are_one_part_each():
    source = make_source({"top": Recording("a", 10**6)}, PartsConfig(trigger="mqtt", window_ms=60_000.0, queue=1000))
    threads = [
        threading.Thread(target=lambda first=first: [trigger(source, f"t{first + n}") for n in range(50)])
        for first in range(0, 400, 50)
    ]
    with closing(source.parts()) as parts:
        for thread in threads:
            thread.start()
        found = list(islice(parts, 400))
        for thread in threads:
            thread.join(PATIENCE_S)
    assert [part.sequence for part in found] == list(range(400))
    assert {part.trigger.trigger_id for part in found} == {f"t{number}" for number in range(400)}
    assert {(part.reason, part.detail) for part in found} == {(None, None)}
    assert len({part.views["top"].name for part in found}) == 400  # no picture twice


def test_stopping_answers_what_waits_and_frees_the_cameras():
    hardware = Hardware()
    source = make_source({"top": live(hardware, "every")}, MQTT)
    found, reached = [], threading.Event()

    def run():
        for part in source.parts():
            found.append(part)
            reached.set()

    thread = threading.Thread(target=run)
    thread.start()
    trigger(source, "a")
    hardware.arrived.release()
    assert reached.wait(PATIENCE_S)
    trigger(source, "b")
    source.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert [part.reason for part in found] == [None, "no_frame"]
    refused = Trigger("c", clock.utc(), time.monotonic_ns())
    assert not source.trigger(refused, redelivered=False, too_late=None)
