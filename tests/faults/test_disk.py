"""A disk that takes nothing: a small real one that is full, has no more inodes, or fails every write."""

import json
import os
import resource
import signal
import sqlite3
import subprocess

import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import key

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


class SmallDisk:
    """A tmpfs of its own; `fill` leaves no byte, `empty` gives them back."""

    def __init__(self, folder, options="size=24m"):
        self.folder = folder
        folder.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a small disk needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")

    def fill(self):
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def free(self, size):
        filler = self.folder / "filler"
        os.truncate(filler, filler.stat().st_size - size)

    def empty(self):
        (self.folder / "filler").unlink()

    def use_up_inodes(self):
        number = 0
        while True:
            try:
                (self.folder / f"inode-{number}").touch()
            except OSError:
                return
            number += 1

    def unmount(self):
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.unmount()


def states(subscriber):
    return [message.json for message in subscriber.of("state")]


def events(subscriber, name):
    return [message.json for message in subscriber.of("event") if message.json["event"] == name]


def unsent(path, kind):
    """What an agent that has ended will send when it starts again: none of it is live then."""
    database = sqlite3.connect(path)
    try:
        rows = database.execute("SELECT payload FROM outbox WHERE kind = ?", (kind,)).fetchall()
    finally:
        database.close()
    return [{**json.loads(payload), "historical": True} for (payload,) in rows]


def is_sound(path):
    database = sqlite3.connect(path)
    try:
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        database.close()


def test_a_full_disk_costs_pictures_and_no_verdict(tmp_path, disk, broker, subscriber):
    outbox = {"path": str(disk.folder / "outbox.db")}
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, outbox=outbox, health_interval_s=0.5)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 20)
        disk.fill()
        subscriber.wait_for(lambda s: states(s)[-1]["storage"] == "memory")  # said at once
        subscriber.wait_for(lambda s: events(s, "outbox_in_memory"))
        at = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > at + 50)  # delivered from memory
        assert not any(result["historical"] for result in subscriber.results[at:])
        broker.stop()
        agent.wait_given(100)  # the line goes on, with neither disk nor broker
        disk.empty()
        agent.wait_for(lambda a: "The disk takes verdicts again" in a.log)
        agent.wait_given(20)
        broker.start()
        agent.wait_given(20)
        given = set(map(key, agent.given))
        subscriber.wait_for(lambda s: given <= s.keys)
        subscriber.wait_for(lambda s: events(s, "outbox_on_disk") and events(s, "outbox_evicted"))
        assert states(subscriber)[-1]["storage"] == "disk"
        assert agent.end() == 0, agent.log
    ledger = Ledger(given, [*subscriber.results, *unsent(disk.folder / "outbox.db", "result")])
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert ledger.gaps == {}
    alarms = events(subscriber, "outbox_in_memory")
    assert [alarm["severity"] for alarm in alarms] == ["alarm"]
    assert "the disk is full. Make room on it. Verdicts are held in memory" in alarms[0]["message"]
    counts = events(subscriber, "outbox_evicted")[0]["counts"]
    assert counts["evicted_results"] == 0 < counts["evicted_images"]
    assert events(subscriber, "outbox_on_disk")[0]["counts"]["most_held"] >= 100
    assert agent.log.count("the disk is full") == 1  # once, however long it lasts
    assert is_sound(disk.folder / "outbox.db")
    assert states(subscriber)[-1]["storage"] in ("disk", None)


@pytest.mark.slow
def test_memory_ends_at_its_limit_and_the_oldest_are_counted_and_published(tmp_path, disk, broker, subscriber):
    outbox = {"path": str(disk.folder / "outbox.db"), "memory_rows": 50}
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, outbox=outbox, health_interval_s=0.2)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 5)
        broker.stop()
        disk.fill()
        agent.wait_given(200)
        disk.empty()
        agent.wait_for(lambda a: "The disk takes verdicts again" in a.log)
        broker.start()
        subscriber.wait_for(lambda s: events(s, "outbox_evicted"))
        assert agent.end() == 0, agent.log
    later = [event for event in unsent(disk.folder / "outbox.db", "event") if event["event"] == "outbox_evicted"]
    lost = sum(event["counts"]["evicted_results"] for event in [*events(subscriber, "outbox_evicted"), *later])
    ledger = Ledger(received=[*subscriber.results, *unsent(disk.folder / "outbox.db", "result")])
    (missing,) = ledger.gaps.values()
    assert len(missing) == lost > 100
    assert missing == list(range(missing[0], missing[-1] + 1))  # the oldest of those held, not some here and there


def test_a_little_room_is_not_enough_to_leave_memory(tmp_path, disk, broker, subscriber):
    """Or it would go to and fro with every few verdicts."""
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, outbox={"path": str(disk.folder / "outbox.db")})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 5)
        disk.fill()
        subscriber.wait_for(lambda s: states(s)[-1]["storage"] == "memory")
        disk.free(128 * 1024)
        agent.wait_given(400)  # four seconds, hence several attempts
        assert "The disk takes verdicts again" not in agent.log
        disk.empty()
        agent.wait_for(lambda a: "The disk takes verdicts again" in a.log)
        assert agent.end() == 0, agent.log
    assert len(events(subscriber, "outbox_in_memory")) == 1


def test_a_kill_on_a_full_disk_loses_only_what_the_broker_had_not_got(tmp_path, disk, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, outbox={"path": str(disk.folder / "outbox.db")})
    ledger = Ledger()
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 5)
        disk.fill()
        subscriber.wait_for(lambda s: states(s)[-1]["storage"] == "memory")
        agent.wait_given(50)
        agent.end(signal.SIGKILL)
    ledger.add_given(agent.given)
    boot = agent.given[0]["boot"]
    with RunningAgent(config) as agent:  # starts on the full disk, and inspects
        agent.wait_given(20)
        assert {result["boot"] for result in agent.given} != {boot}
        assert agent.given[0]["boot"] >= 2**30  # random: nothing could count it
        disk.empty()
        agent.wait_for(lambda a: "The disk takes verdicts again" in a.log)
        agent.wait_given(5)
        given = set(map(key, agent.given))
        subscriber.wait_for(lambda s: given <= s.keys)
        assert agent.end() == 0, agent.log
    ledger.add_given(agent.given)
    with RunningAgent(config) as agent:
        agent.wait_given(5)
        assert agent.given[0]["boot"] == boot + 1
        assert agent.end() == 0
    ledger.received = list(subscriber.results)
    assert all(each[2] == boot for each in ledger.missing)
    assert len(ledger.missing) <= 64  # mqtt.window: given, on their way, unanswered
    assert ledger.gaps == {}  # ... and the last ones
    assert is_sound(disk.folder / "outbox.db")


def test_a_disk_that_fails_every_write_is_no_end_either(tmp_path, broker, subscriber):
    """A stand-in for a read-only remount, which needs a file system that nobody has open: writes fail all the same."""
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 5)
        before = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        subscriber.wait_for(lambda s: states(s)[-1]["storage"] == "memory")
        at = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > at + 20)
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, before)
        subscriber.wait_for(lambda s: states(s)[-1]["storage"] == "disk")
        agent.wait_given(20)
        assert agent.end() == 0, agent.log
    given = set(map(key, agent.given))
    subscriber.wait_for(lambda s: len(given - s.keys) < 64)
    ledger = Ledger(received=list(subscriber.results))
    assert ledger.gaps == {}
    assert ledger.out_of_order == []
    assert "can't be written (disk I/O error)" in events(subscriber, "outbox_in_memory")[0]["message"]
    assert is_sound(tmp_path / "outbox.db")


def test_a_disk_without_inodes_costs_pictures_and_no_verdict(tmp_path, broker, subscriber):
    disk = SmallDisk(tmp_path / "disk", "size=8m,nr_inodes=64")
    try:
        maps = {"folder": str(disk.folder / "rejects"), "publish": True}
        outbox = {"path": str(disk.folder / "outbox.db")}
        config = make_line(tmp_path, port=broker.port, cameras=CAMERA, outbox=outbox, anomaly_maps=maps)
        with RunningAgent(config) as agent:
            subscriber.wait_for(lambda s: len(s.results) > 5)
            disk.use_up_inodes()
            agent.wait_for(lambda a: "Verdicts go on without pictures" in a.log)
            at = len(subscriber.results)
            subscriber.wait_for(lambda s: len(s.results) > at + 50)
            assert agent.end() == 0, agent.log
        assert agent.log.count("Verdicts go on without pictures") == 1
        ledger = Ledger(received=list(subscriber.results))
        assert ledger.gaps == {}
        (disk.folder / "inode-0").unlink()  # to look into the file, SQLite needs one
        assert is_sound(disk.folder / "outbox.db")
    finally:
        disk.unmount()
