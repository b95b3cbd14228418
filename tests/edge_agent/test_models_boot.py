"""Which bundle serves at the start: the file's or the record's, and what happens where that one can't."""

import pytest
from judging import IdleEngine
from shelved import put, put_other
from tiny_bundle import write_manifest

from edge_agent.bundle import BundleError, open_bundle
from edge_agent.engines import EngineError
from edge_agent.models.boot import Register, start
from edge_agent.models.judge import Judge
from edge_agent.models.record import read_record

TOP = (None, "top")


class Station:
    """Starts one after the other, as the agent would; `bad` are versions whose engine can't be trusted here."""

    def __init__(self, folder):
        self.folder, self.bad, self.notes = folder, set(), []

    def start(self, name, **options):
        register = Register(self.folder / "models.json")
        begun = start(TOP, self.folder / name, register, open_bundle, self.appoint, **options)
        self.notes = begun.notes
        return begun.judge.model.version

    def appoint(self, bundle):
        if bundle.manifest.version in self.bad:
            raise EngineError("The engine disagrees with the golden set.")
        return Judge.of(bundle, IdleEngine())

    def reload(self, name):
        register = Register(self.folder / "models.json")
        register.change({TOP: register.get(TOP).with_new(open_bundle(self.folder / name), "command")})

    def rollback(self, name):
        register = Register(self.folder / "models.json")
        register.change({TOP: register.get(TOP).rolled_back(open_bundle(self.folder / name), "command")})

    @property
    def said(self):
        return [(event, severity) for event, severity, _ in self.notes]


@pytest.fixture
def station(tmp_path):
    for version in (3, 4, 5):
        put(tmp_path, f"v{version}", version)
    return Station(tmp_path)


def test_the_files_bundle_serves_first_and_is_remembered(station):
    assert station.start("v3") == 3
    assert station.said == []
    entry = read_record(station.folder / "models.json")[0].get(TOP)
    assert (entry.serving.version, entry.configured.version, entry.earlier, entry.floor) == (3, 3, [], {"dots": 3})


def test_what_a_command_brought_serves_on_while_the_file_stays_as_it_was(station):
    station.start("v3")
    station.reload("v4")
    assert [station.start("v3") for _ in range(3)] == [4, 4, 4]
    assert station.said == []


def test_an_edited_file_is_followed_to_a_newer_bundle_and_to_a_moved_one(station):
    station.start("v3")
    station.reload("v4")
    assert station.start("v5") == 5
    (station.folder / "v5").rename(station.folder / "moved")
    assert station.start("moved") == 5
    assert station.said == []


def test_an_edited_file_may_not_go_back_behind_what_has_served(station):
    station.start("v4")
    station.reload("v5")
    for _ in range(2):  # and it says so at every start
        assert station.start("v3") == 5
        assert station.said == [("model_refused", "alarm")]
        assert "is version 3 of dots, but version 5 has served here. It is refused;" in station.notes[0][2]
    assert station.start("v4") == 5  # the record was not led astray
    assert station.said == []
    assert station.start("v3", allow_older=True) == 3
    assert station.start("v3") == 3  # once allowed it is what has served
    assert station.said == []


def test_after_a_rollback_the_file_may_name_what_it_went_back_to(station):
    station.start("v3")
    station.reload("v4")
    station.reload("v5")
    station.rollback("v4")
    assert station.start("v3") == 4
    assert station.start("v4") == 4
    assert station.start("v3") == 4
    assert station.said == [("model_refused", "alarm")]


def test_another_product_starts_with_versions_of_its_own(station):
    station.start("v5")
    put(station.folder, "bolts", 1, name="bolts")
    assert station.start("bolts") == 1
    assert station.said == []
    assert station.start("v4") == 1  # back to the first product, and it has not forgotten version 5
    assert station.said == [("model_refused", "alarm")]


def test_a_bundle_that_does_not_open_or_agree_gives_way_to_the_one_before(station):
    station.start("v3")
    station.reload("v4")
    station.reload("v5")
    (station.folder / "v5" / "model.onnx").write_bytes(b"")
    station.bad = {4}
    assert station.start("v3") == 3
    assert station.said == [("model_rolled_back", "alarm")]
    assert "changed after export" in station.notes[0][2]
    station.bad = set()
    assert station.start("v3") == 4  # nobody has taken it out of service
    station.bad = {3, 4}
    with pytest.raises(BundleError, match="changed after export"):
        station.start("v3")


def test_a_bundle_that_was_replaced_under_its_name_does_not_serve_as_the_old_one(station):
    station.start("v3")
    station.reload("v4")
    put_other(station.folder, "v4", 4, threshold=60.0)
    assert station.start("v3") == 3
    assert "was replaced since" in station.notes[0][2]


def test_a_new_file_whose_engine_cannot_be_trusted_leaves_the_old_bundle_in_service(station):
    station.start("v3")
    station.bad = {4}
    assert station.start("v4") == 3
    assert station.said == [("model_rolled_back", "alarm")]
    station.bad = set()
    assert station.start("v4") == 4


def test_a_file_that_was_edited_to_nothing_is_an_error_at_once(station):
    station.start("v3")
    with pytest.raises(BundleError, match="is not a folder"):
        station.start("v33")


def test_a_bundle_of_the_file_that_is_damaged_gives_way_to_what_served(station):
    station.start("v3")
    station.reload("v4")
    write_manifest(station.folder / "v3", {"format": 1})
    assert station.start("v3") == 4
    assert station.said == []  # nobody needs it


def test_the_first_start_has_nothing_to_fall_back_to(station):
    station.bad = {3}
    with pytest.raises(EngineError, match="disagrees"):
        station.start("v3")
    assert not (station.folder / "models.json").exists()


def test_a_dry_run_leaves_the_record_alone(station):
    register = Register(station.folder / "models.json", read_only=True)
    assert start(TOP, station.folder / "v3", register, open_bundle, station.appoint).judge.model.version == 3
    (station.folder / "models.json").write_bytes(b"garbage")
    assert Register(station.folder / "models.json", read_only=True).trouble
    assert (station.folder / "models.json").read_bytes() == b"garbage"


def test_a_record_that_cannot_be_written_is_an_alarm_and_the_line_runs(station):
    (station.folder / "models.json.new").mkdir()
    assert station.start("v3") == 3
    assert station.said == [("model_record_lost", "alarm")]
    assert "can't be written" in station.notes[0][2]
