"""While the disk takes nothing the outbox lives in memory: bounded, in order, and all of it reaches the disk later.

tests/faults/test_disk.py does the same with a real full disk; here SQLite is told that the disk is full.
"""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.outbox import NO_COUNT, Evicted, Message, Outbox, OutboxError

ROOMY = {"max_rows": 10_000, "max_bytes": 10_000_000}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class FullDisk:
    """An outbox whose disk fills up and empties on demand."""

    def __init__(self, path, memory_rows=100, **bounds):
        self.clock = Clock()
        self.outbox = Outbox(path, **{**ROOMY, **bounds}, memory_rows=memory_rows, monotonic=self.clock)

    def fill(self):
        pages = self.outbox._db.execute("PRAGMA page_count").fetchone()[0]
        self.outbox._db.execute(f"PRAGMA max_page_count = {pages}")

    def empty(self):
        self.outbox._db.execute("PRAGMA max_page_count = 1000000")

    def retry(self):
        self.clock.now += 60.0
        return self.outbox.commit([])


def verdict(text, size=5000):
    return Message("result", "line/result", text.encode() + bytes(size))


def texts(outbox, **bounds):
    return [row.payload.rstrip(b"\0").decode() for row in outbox.read(**{"after": 0, "limit": 100_000, **bounds})]


def test_a_full_disk_holds_verdicts_in_memory_and_stores_them_in_order_when_there_is_room(tmp_path):
    disk = FullDisk(tmp_path / "outbox.db")
    outbox = disk.outbox
    outbox.commit([verdict("a"), verdict("b")])
    disk.fill()
    assert outbox.commit([verdict("c"), Message("image", "map", b"png"), verdict("d")]) == Evicted(0, 1)
    assert "the disk is full. Make room on it." in outbox.trouble
    outbox.commit([verdict("e")])
    assert texts(outbox) == ["a", "b", "c", "d", "e"]
    assert texts(outbox, after=1, limit=3) == ["b", "c", "d"]
    assert (len(outbox), outbox.held, outbox.last) == (5, 3, 6)
    disk.retry()
    assert outbox.held == 3  # still full
    disk.empty()
    disk.retry()
    assert (outbox.trouble, outbox.held, outbox.most_held) == (None, 0, 3)
    outbox.commit([verdict("f")])
    outbox.close()
    again = Outbox(tmp_path / "outbox.db", **ROOMY)
    assert texts(again) == ["a", "b", "c", "d", "e", "f"]
    assert again.evicted == Evicted(0, 1)
    again.close()


def test_what_the_broker_took_meanwhile_is_not_read_again(tmp_path):
    disk = FullDisk(tmp_path / "outbox.db")
    outbox = disk.outbox
    outbox.commit([verdict("a"), verdict("b"), verdict("c")])
    disk.fill()
    outbox.commit([verdict("d"), verdict("e")])
    outbox.commit([verdict("f")], forget=[2, 4])  # one of the disk's, one of memory's
    assert texts(outbox) == ["a", "c", "e", "f"]
    assert texts(outbox, limit=2) == ["a", "c"]  # a full page, or the publisher would think that there is no more
    assert len(outbox) == 4
    outbox.commit([], forget=[5, 6])
    assert (outbox.held, outbox.trouble is None) == (0, False)  # all delivered, and the disk is full as before
    outbox.commit([verdict("e"), verdict("f")])
    disk.empty()
    disk.retry()
    assert (texts(outbox), len(outbox)) == (["a", "c", "e", "f"], 4)
    outbox.close()


def test_memory_has_its_limit_and_what_is_over_it_is_counted(tmp_path):
    disk = FullDisk(tmp_path / "outbox.db", memory_rows=3)
    outbox = disk.outbox
    disk.fill()
    evicted = [outbox.commit([verdict(str(n))]).results for n in range(8)]
    assert evicted == [0, 0, 0, 1, 1, 1, 1, 1]
    assert texts(outbox) == ["5", "6", "7"]
    assert outbox.is_full
    assert outbox.evicted == outbox.unreported == Evicted(5, 0)
    disk.empty()
    disk.retry()
    outbox.close()
    again = Outbox(tmp_path / "outbox.db", **ROOMY)
    assert (texts(again), again.evicted, again.unreported) == (["5", "6", "7"], Evicted(5, 0), Evicted(5, 0))
    again.close()


def test_values_are_recalled_from_memory_and_reach_the_disk(tmp_path):
    disk = FullDisk(tmp_path / "outbox.db")
    outbox = disk.outbox
    outbox.commit([], keep={"orders": b"1.0", "old": b"x"})
    disk.fill()
    outbox.commit([verdict("a")], keep={"orders": b"1.1", "old": None})
    assert outbox.recall() == {"orders": b"1.1"}
    disk.empty()
    disk.retry()
    outbox.close()
    again = Outbox(tmp_path / "outbox.db", **ROOMY)
    assert again.recall() == {"orders": b"1.1"}
    again.close()


def test_a_disk_that_fails_again_at_once_is_tried_less_often(tmp_path):
    disk = FullDisk(tmp_path / "outbox.db")
    waits = []
    for _ in range(7):
        disk.fill()
        disk.outbox.commit([verdict("x")])
        disk.empty()
        began = disk.clock.now
        while disk.outbox.trouble:
            disk.clock.now += 0.5
            disk.outbox.commit([])
        waits.append(disk.clock.now - began)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    disk.outbox.close()


def test_the_end_of_the_agent_with_a_full_disk_says_what_is_lost(tmp_path, caplog):
    disk = FullDisk(tmp_path / "outbox.db")
    disk.fill()
    disk.outbox.commit([verdict("a"), verdict("b")])
    with caplog.at_level(logging.ERROR):
        disk.outbox.close()
    assert "2 messages were held in memory and are lost with the end of the agent." in caplog.text


def test_a_start_on_a_full_disk_has_a_boot_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "outbox.db"
    first = Outbox(path, **ROOMY)
    first.commit([verdict("a")])
    first.close()
    monkeypatch.setattr(Outbox, "_count", _no_room)
    with pytest.raises(OutboxError, match="the disk is full"):
        Outbox(path, **ROOMY)
    starved = Outbox(path, **ROOMY, memory_rows=10)
    starved.commit([verdict("b")])
    assert texts(starved) == ["a", "b"]
    assert starved.boot >= NO_COUNT > first.boot
    monkeypatch.undo()
    starved._retry_at = 0.0
    starved.commit([])
    assert starved.trouble is None
    starved.close()
    again = Outbox(path, **ROOMY)
    assert (texts(again), again.boot) == (["a", "b"], first.boot + 1)
    again.close()


def _no_room(outbox, name, by):
    import sqlite3

    raise sqlite3.OperationalError("database or disk is full")


STEPS = st.lists(st.sampled_from(["part", "part", "fill", "empty", "retry", "forget", "restart"]), max_size=40)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_the_disk_does_order_holds_and_nothing_is_lost_but_by_a_restart(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    disk, expected, count, full = FullDisk(path), [], 0, False
    for step in steps:
        if step == "part":
            disk.outbox.commit([verdict(str(count))])
            expected.append(str(count))
            count += 1
        elif step in ("fill", "empty"):
            full = step == "fill"
            disk.fill() if full else disk.empty()
        elif step == "retry":
            disk.retry()
            assert full or disk.outbox.trouble is None
        elif step == "forget" and expected:
            row = disk.outbox.read(after=0, limit=100)[len(expected) // 2]
            disk.outbox.commit([], forget=[row.id])
            expected.remove(row.payload.rstrip(b"\0").decode())
        elif step == "restart" and not disk.outbox.trouble:
            disk.outbox.close()
            disk, full = FullDisk(path), False
        assert texts(disk.outbox) == expected
        assert len(disk.outbox) == len(expected)
    disk.empty()
    disk.retry()
    disk.outbox.close()
    last = Outbox(path, **ROOMY)
    assert texts(last) == expected
    last.close()
