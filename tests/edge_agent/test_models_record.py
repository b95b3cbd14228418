"""The record of what serves: whole after a kill at any write, believed only when whole, and never going back."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.models import record
from edge_agent.models.judge import key_of, name_of
from edge_agent.models.record import EARLIER, Entry, Record, RecordError, Served, read_record, write_record

ROOT = Path(__file__).parents[2]


def served(version, name="dots"):
    return Served(folder=f"/bundles/{version}", digest=f"{version:064x}", name=name, version=version)


class Bundled:
    """What `Served.of` reads of a bundle."""

    def __init__(self, version, name="dots"):
        self.folder, self.digest = Path(f"/bundles/{version}"), f"{version:064x}"
        self.manifest = type("Manifest", (), {"name": name, "version": version})()


def entry(version=3):
    return Entry(serving=served(version), configured=served(version), floor={"dots": version})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "folder" / "models.json"
    entries = {(None, "top"): entry(), ("bolts", "top"): entry(7).with_new(Bundled(8), "command-1")}
    write_record(path, Record(entries))
    assert read_record(path) == (Record(entries), None)
    assert [each.name for each in path.parent.iterdir()] == ["models.json"]


def test_a_key_and_its_name_are_the_same():
    for key in ((None, "top"), ("bolts", "top"), ("a.b", "c-d")):
        assert key_of(name_of(key)) == key


def test_no_record_is_an_empty_one_without_trouble(tmp_path):
    assert read_record(tmp_path / "models.json") == (Record(), None)


def test_a_rollback_goes_back_step_by_step_and_lowers_what_may_serve():
    now = entry(3)
    for version in (4, 5):
        now = now.with_new(Bundled(version))
    assert ([each.version for each in now.earlier], now.floor) == ([3, 4], {"dots": 5})
    now = now.rolled_back(Bundled(4), "command-2")
    assert (now.serving.version, [each.version for each in now.earlier]) == (4, [3])
    assert (now.floor, now.command_id) == ({"dots": 4}, "command-2")
    now = now.rolled_back(Bundled(3))
    assert (now.serving.version, now.earlier, now.floor, now.command_id) == (3, [], {"dots": 3}, None)


def test_only_so_many_earlier_bundles_are_remembered():
    now = entry(1)
    for version in range(2, 20):
        now = now.with_new(Bundled(version))
    assert [each.version for each in now.earlier] == list(range(19 - EARLIER, 19))


def test_each_product_has_its_own_floor():
    now = entry(9).with_new(Bundled(1, "bolts"))
    assert now.floor == {"dots": 9, "bolts": 1}


@settings(deadline=None)
@given(at=st.integers(0, 10**6), with_=st.binary(max_size=8), cut=st.integers(0, 8))
def test_damage_anywhere_is_noticed(tmp_path_factory, at, with_, cut):
    path = tmp_path_factory.mktemp("record") / "models.json"
    original = Record({(None, "top"): entry()})
    write_record(path, original)
    whole = path.read_bytes()
    at %= len(whole)
    path.write_bytes(whole[:at] + with_ + whole[at + cut :])
    found, trouble = read_record(path)
    assert found == original if trouble is None else (found == Record() and "is damaged" in trouble)
    assert path.exists() == (trouble is None)
    assert path.with_name("models.json.unreadable").exists() == (trouble is not None)


@pytest.mark.parametrize("data", [b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 1}'])
def test_what_was_never_a_record_is_set_aside_unless_told_not_to(tmp_path, data):
    path = tmp_path / "models.json"
    path.write_bytes(data)
    assert "Delete it." in read_record(path, set_aside=False)[1]
    assert path.exists()
    assert "models.json.unreadable now." in read_record(path)[1]
    assert not path.exists()


def test_a_record_of_another_format_is_no_record(tmp_path):
    path = tmp_path / "models.json"
    body = {"format": 2, "entries": {}}
    path.write_text(json.dumps({**body, "sha256": record._digest(body)}))
    assert "is damaged" in read_record(path)[1]


def test_a_record_that_cannot_be_written_says_so_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "models.json"
    write_record(path, Record({(None, "top"): entry(3)}))
    (tmp_path / "models.json.new").mkdir()
    with pytest.raises(RecordError, match=r"models\.json, the record of the bundles in service, can't be written"):
        write_record(path, Record({(None, "top"): entry(4)}))
    assert read_record(path)[0].get((None, "top")).serving.version == 3


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from edge_agent.models import record
step, moment, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
before = record.read_record(path)[0]

def counted(function):
    def call(*arguments, **options):
        global calls
        mine = calls = calls + 1
        if mine == step and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if mine == step and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

class File:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        self.file.__enter__()
        return self
    def __exit__(self, *error):
        return self.file.__exit__(*error)
    def write(self, data):
        self.file.write(data[: len(data) // 2])  # a write that is cut in the middle
        self.file.flush()
        half()
        self.file.write(data[len(data) // 2 :])
    def flush(self):
        self.file.flush()
    def fileno(self):
        return self.file.fileno()

half = counted(lambda: None)
opened = Path.open
Path.open = counted(lambda path, mode: File(opened(path, mode)) if mode == "wb" else opened(path, mode))
record.os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
record.sync_folder = counted(record.sync_folder)
key, calls = (None, "top"), 0
record.write_record(path, record.Record({{key: before.get(key).model_copy(update={{"command_id": "new"}})}}))
print(calls)
"""


def killed(step, moment, path):
    program = KILLED.format(root=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", program, str(step), moment, str(path)], capture_output=True, text=True, check=False
    )


def test_a_kill_at_any_step_of_the_write_leaves_the_old_record_or_the_new_one(tmp_path):
    path, seen = tmp_path / "models.json", []
    old = Record({(None, "top"): entry(3)})
    write_record(path, old)
    whole = killed(0, "before", path)
    steps = int(whole.stdout)
    assert steps == 6, whole.stderr  # open, half of the data, its fsync, rename, the folder's sync with an fsync in it
    for step, moment in [(step, moment) for step in range(1, steps + 1) for moment in ("before", "after")]:
        write_record(path, old)  # what a kill has left behind is in nobody's way
        assert [each.name for each in tmp_path.iterdir()] == ["models.json"]
        assert killed(step, moment, path).returncode == -signal.SIGKILL
        found, trouble = read_record(path)
        assert trouble is None
        seen.append(found.get((None, "top")).command_id)
    assert seen == [None] * 7 + ["new"] * 5  # the rename is the seventh moment's end
