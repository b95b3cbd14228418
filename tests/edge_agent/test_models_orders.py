"""reload_model, rollback and set_roi at the desk: limits, undo, what goes with a bundle, what survives a restart."""

import threading

import pytest
from model_station import Line
from served import wait_until

from edge_agent.bundle import open_bundle
from edge_agent.config import RoiLimits
from edge_agent.engines import EngineError
from edge_agent.models.record import Record, RecordError, write_record


@pytest.fixture
def line(tmp_path):
    line = Line(tmp_path)
    yield line
    line.desk.close()
    line.outbox.close()


# reload_model and rollback


def test_versions_go_up_by_command_and_down_by_rollback_only(line):
    assert line.finish("reload_model", version=4)["model"]["version"] == 4
    assert line.finish("reload_model", path="v4")["reason"] == "not_newer"
    assert line.finish("reload_model", version=5)["model_before"]["version"] == 4
    assert line.finish("reload_model", path="v4")["reason"] == "not_newer"
    assert [line.finish("rollback")["model"]["version"] for _ in range(2)] == [4, 3]
    assert line.finish("rollback")["reason"] == "nothing_to_undo"
    assert line.finish("reload_model", version=4)["status"] == "done"
    line.restart()
    assert line.version == 4
    assert line.finish("rollback")["model"]["version"] == 3


def test_old_engines_are_closed_after_the_probation_and_not_before(tmp_path):
    line = Line(tmp_path, settings={"probation_parts": 2})
    old = line.judges.in_service(None, "top").engine
    assert line.finish("reload_model", version=4)["status"] == "done"
    line.see()
    assert not line.engines[-2].closed
    line.see(sequence=1)
    wait_until(lambda: line.engines[-2].closed)
    assert line.engines[-2].closed
    assert not line.engines[-1].closed
    assert old is not None
    line.outbox.close()


def test_a_rollback_within_the_probation_needs_no_new_engine(line):
    assert line.finish("reload_model", version=4)["status"] == "done"
    made = len(line.engines)
    assert line.finish("rollback")["model"]["version"] == 3
    assert len(line.engines) == made
    wait_until(lambda: line.engines[-1].closed)
    assert not line.engines[-2].closed


def test_the_threshold_and_the_crop_were_meant_for_the_bundle_before(line):
    assert line.set_threshold(1.05)["status"] == "done"
    assert line.set_roi(1, 0, 31, 24)["status"] == "done"
    assert line.judges.rois == {"top": (1, 0, 31, 24)}
    old = line.judges.in_service(None, "top").bundle.digest
    assert line.finish("reload_model", version=4)["status"] == "done"
    assert line.control.orders.threshold == 1.0
    assert line.control.orders.limit(old) == 1.05  # for the old bundle's last parts
    assert line.judges.rois == {}
    assert line.undo()["reason"] == "nothing_to_undo"
    assert line.set_roi(undo=True)["reason"] == "nothing_to_undo"
    line.restart()
    assert (line.control.orders.threshold, line.judges.rois) == (1.0, {})


def test_an_automatic_rollback_brings_back_threshold_and_crop(line):
    line.set_threshold(1.05)
    line.set_roi(1, 0, 31, 24)
    assert line.finish("reload_model", version=4)["status"] == "done"
    for sequence in range(4):
        assert line.version == 4
        line.see(sequence=sequence, verdict="unknown", reason="engine_failed")
    assert line.version == 3
    assert (line.control.orders.threshold, line.judges.rois) == (1.05, {"top": (1, 0, 31, 24)})
    (told,) = line.events("model_rolled_back")
    assert (told["severity"], told["counts"]) == ("alarm", {"parts": 4, "failed_engine_failed": 4})
    line.restart()
    assert (line.version, line.control.orders.threshold, line.judges.rois) == (3, 1.05, {"top": (1, 0, 31, 24)})
    assert line.finish("rollback")["reason"] == "nothing_to_undo"


def test_one_change_at_a_time_and_a_change_that_is_cut_short_is_interrupted(line):
    going = threading.Event()

    def wait(closing):
        going.set()
        wait_until(closing.is_set)

    line.first = wait
    line.receive(sent := line.request("reload_model", arguments={"version": 4}))
    assert going.wait(20)
    assert line.ask(line.request("reload_model", arguments={"version": 5}))["reason"] == "busy"
    assert line.ask(line.request("rollback"))["reason"] == "busy"
    line.desk.close()
    line.first = lambda closing: None
    line.restart()
    assert line.version == 3
    answer = next(each for each in reversed(line.acks) if each["command_id"] == sent["command_id"])
    assert (answer["status"], answer["reason"]) == ("failed", "interrupted")
    assert line.finish("reload_model", version=4)["status"] == "done"


@pytest.mark.parametrize("trouble", [EngineError("It disagrees."), MemoryError("no room"), RuntimeError("odd")])
def test_whatever_goes_wrong_beside_the_line_is_an_answer(line, trouble):
    line.trouble = trouble
    answer = line.finish("reload_model", version=4)
    assert (answer["status"], answer["reason"]) == ("failed", "not_proved")
    assert str(trouble) in answer["detail"]
    assert line.version == 3


def test_a_record_that_cannot_be_written_leaves_the_old_bundle_in_service(line, tmp_path):
    (tmp_path / "models.json.new").mkdir()
    with pytest.raises(RecordError):
        write_record(tmp_path / "models.json", Record())
    answer = line.finish("reload_model", version=4)
    assert (answer["status"], answer["reason"]) == ("failed", "not_written")
    assert line.version == 3
    wait_until(lambda: line.engines[-1].closed)


def test_cameras_that_share_a_bundle_change_together_or_by_name(tmp_path):
    line = Line(tmp_path, cameras=("left", "right"))
    assert line.finish("reload_model", version=4)["status"] == "done"
    both = line.judges.all()
    assert {judge.model.version for judge in both.values()} == {4}
    assert len({id(judge.engine) for judge in both.values()}) == 1
    assert line.finish("reload_model", version=5, camera="right")["status"] == "done"
    assert [judge.model.version for judge in line.judges.all().values()] == [4, 5]
    answer = line.finish("rollback")
    assert answer["reason"] == "unknown_camera"
    assert "here are left, right" in answer["detail"]
    assert line.finish("rollback", camera="right")["model"]["version"] == 4
    assert line.finish("rollback", camera="middle")["reason"] == "unknown_camera"
    assert line.finish("rollback", product="bolts")["reason"] == "unknown_camera"
    line.outbox.close()


def test_a_threshold_holds_for_every_bundle_in_service_however_it_came_back(tmp_path):
    line = Line(tmp_path, cameras=("left", "right"))
    for verb, arguments in (("reload_model", {"version": 4}), ("rollback", {}), ("reload_model", {"version": 4})):
        assert line.finish(verb, camera="left", **arguments)["status"] == "done"
    assert line.set_threshold(1.05)["status"] == "done"
    judges = line.judges.all().values()
    assert [judge.model.version for judge in judges] == [4, 3]
    assert [line.control.orders.limit(judge.bundle.digest) for judge in judges] == [1.05, 1.05]
    line.outbox.close()


# set_roi


def test_the_crop_moves_within_its_limits_and_back(tmp_path):
    limits = RoiLimits(max_shift_px=4, min_scale=0.9, max_scale=1.25)
    line = Line(tmp_path, crop=[8, 6, 16, 12], roi=limits)
    for box in ((12, 6, 16, 12), (4, 10, 16, 12), (6, 4, 20, 15), (8, 6, 15, 12)):
        assert line.set_roi(*box)["status"] == "done", box
        assert line.judges.in_service(None, "top").preprocessing.crop == box
    for box, sentence in (
        ((13, 6, 16, 12), "Its centre lies 5 pixels from that of [8, 6, 16, 12]; 4 are allowed."),
        ((8, 6, 14, 12), "Its width is 0.875 times that of [8, 6, 16, 12]; 0.9 to 1.25 are allowed."),
        ((8, 5, 16, 16), "Its height is 1.33 times that of"),
        ((20, 6, 16, 12), "reaches beyond the frame of 32 x 24 pixels"),
    ):
        answer = line.set_roi(*box)
        assert (answer["status"], answer["reason"]) == ("rejected", "out_of_range")
        assert sentence in answer["detail"]
    answer = line.set_roi(undo=True)
    assert (answer["roi"], answer["roi_before"]) == ([6, 4, 20, 15], [8, 6, 15, 12])
    for _ in range(3):
        answer = line.set_roi(undo=True)
    assert (answer["roi"], answer["roi_before"]) == (None, [12, 6, 16, 12])
    assert line.judges.in_service(None, "top").preprocessing.crop == (8, 6, 16, 12)
    assert line.set_roi(undo=True)["reason"] == "nothing_to_undo"
    assert line.audited[-1]["reason"] == "nothing_to_undo"
    line.outbox.close()


def test_undo_ends_at_the_bundles_own_crop_however_many_there_were(line):
    def slowly(*box, **arguments):
        line.time.pass_by(10)  # within the rate of commands
        return line.set_roi(*box, **arguments)

    for number in range(40):
        assert slowly(number % 2, 0, 31, 24)["status"] == "done"
    undone = [slowly(undo=True) for _ in range(17)]
    assert [answer["status"] for answer in undone] == ["done"] * 16 + ["rejected"]
    assert undone[15]["roi"] is None
    assert undone[16]["reason"] == "nothing_to_undo"
    assert line.judges.rois == {}


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"null", b'{"top": 1}', b'{"top": ["d", []]}', b'{"top": ["d", [1, 2]]}']
)
def test_crops_that_cannot_be_read_are_none(line, value):
    line.outbox.commit([], keep={"rois": value})
    line.restart(cleanly=False)
    assert line.judges.rois == {}


def test_a_bundle_without_a_crop_is_held_to_the_whole_frame(line):
    assert line.set_roi(0, 0, 30, 24)["status"] == "done"
    assert line.set_roi(0, 0, 16, 12)["reason"] == "out_of_range"


def test_before_the_first_frame_nobody_knows_what_lies_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Line, "see", lambda *arguments, **options: None)
    line = Line(tmp_path)
    assert line.set_roi(0, 0, 31, 24)["reason"] == "no_frame"
    line.outbox.close()


def test_a_crop_survives_a_kill_and_yields_to_narrower_limits(tmp_path):
    line = Line(tmp_path, crop=[8, 6, 16, 12], roi=RoiLimits(max_shift_px=4))
    assert line.set_roi(12, 6, 16, 12)["status"] == "done"
    line.restart(cleanly=False)
    assert line.judges.rois == {"top": (12, 6, 16, 12)}
    assert line.set_roi(undo=True)["roi"] is None
    assert line.set_roi(12, 6, 16, 12)["status"] == "done"
    line.config = line.config.model_copy(update={"roi": RoiLimits(max_shift_px=3)})
    line.restart(cleanly=False)
    assert line.judges.rois == {}
    line.outbox.close()


def test_a_crop_is_given_up_where_nobody_could_undo_it(line):
    assert line.set_roi(1, 0, 31, 24)["status"] == "done"
    line.config = line.config.model_copy(update={"enabled": False})
    line.restart(cleanly=False)
    assert line.judges.rois == {}


def test_a_crop_yields_to_a_bundle_that_came_while_the_agent_was_off(line):
    assert line.set_roi(1, 0, 31, 24)["status"] == "done"
    entry = line.workshop.register.get((None, "top"))
    line.workshop.register.change({(None, "top"): entry.with_new(open_bundle(line.shelf / "v4"))})
    line.restart(cleanly=False)
    assert (line.version, line.judges.rois) == (4, {})


def test_each_camera_has_its_own_crop(tmp_path):
    line = Line(tmp_path, cameras=("left", "right"))
    assert line.set_roi(1, 0, 31, 24)["reason"] == "unknown_camera"
    assert line.set_roi(1, 0, 31, 24, camera="right")["status"] == "done"
    assert line.judges.rois == {"right": (1, 0, 31, 24)}
    assert line.judges.in_service(None, "left").preprocessing.crop is None
    line.outbox.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x": 1},
        {"x": 1, "y": 1, "width": 2},
        {"undo": False},
        {"x": 0, "y": 0, "width": 2, "height": 2, "undo": True},
        {"x": -1, "y": 0, "width": 2, "height": 2},
        {"x": 0, "y": 0, "width": 0, "height": 2},
        {"x": 0.5, "y": 0, "width": 2, "height": 2},
    ],
)
def test_half_a_box_is_none(line, arguments):
    assert line.set_roi(**arguments)["reason"] == "malformed"
