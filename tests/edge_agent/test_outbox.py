"""The outbox forgets only what it is told to forget, whatever happens in between."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.outbox import Evicted, Message, Outbox, OutboxError

ROOMY = {"max_rows": 10_000, "max_bytes": 10_000_000}


def verdict(text: str) -> Message:
    return Message("result", "line/result", text.encode())


def image(text: str, size: int = 0) -> Message:
    return Message("image", "line/anomaly_map", text.encode() + bytes(size))


def texts(outbox: Outbox) -> list[str]:
    return [row.payload.rstrip(b"\0").decode() for row in outbox.read(after=0, limit=100_000)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(1, 4), st.floats(0.0, 1.0), st.just("restart")), max_size=25))
def test_any_interleaving_keeps_order_and_forgets_only_what_was_acknowledged(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    outbox, expected, boots, count = Outbox(path, **ROOMY), [], [], 0
    boots.append(outbox.boot)
    for step in steps:
        if step == "restart":
            outbox.close()
            outbox = Outbox(path, **ROOMY)
            boots.append(outbox.boot)
        elif isinstance(step, int):  # append so many in one transaction
            new = [str(count + i) for i in range(step)]
            count += step
            outbox.commit([verdict(text) for text in new])
            expected += new
        elif expected:  # acknowledge one, anywhere in the row
            rows = outbox.read(after=0, limit=100_000)
            chosen = int(step * (len(rows) - 1))
            outbox.commit([], forget=[rows[chosen].id])
            del expected[chosen]
        assert texts(outbox) == expected
        assert len(outbox) == len(expected)
    outbox.close()
    assert boots == list(range(boots[0], boots[0] + len(boots)))


def test_ids_are_never_used_twice_even_when_the_outbox_ran_empty(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", **ROOMY)
    outbox.commit([verdict("a"), verdict("b")])
    outbox.commit([], forget=[1, 2])
    outbox.close()
    again = Outbox(tmp_path / "outbox.db", **ROOMY)
    again.commit([verdict("c")])
    assert [row.id for row in again.read(after=0, limit=9)] == [3]
    again.commit([], forget=[1, 2])  # a late acknowledgement of the old ones
    assert texts(again) == ["c"]


def test_two_new_outboxes_start_with_different_boots(tmp_path):
    boots = {Outbox(tmp_path / f"{i}.db", **ROOMY).boot for i in range(5)}
    assert len(boots) == 5  # a deleted outbox must not repeat ids that subscribers have seen


def test_the_database_syncs_every_commit(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", **ROOMY)
    pragmas = [outbox._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


def test_a_second_agent_on_the_same_outbox_is_refused(tmp_path):
    first = Outbox(tmp_path / "outbox.db", **ROOMY)
    with pytest.raises(OutboxError, match=r"outbox\.db is in use by another agent\. Stop that one, or give"):
        Outbox(tmp_path / "outbox.db", **ROOMY)
    first.close()
    Outbox(tmp_path / "outbox.db", **ROOMY).close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutboxError, match=r"can't be written .* Give the agent's user the right"):
        Outbox(tmp_path / "file" / "outbox.db", **ROOMY)


def test_images_make_room_before_verdicts_and_every_one_is_counted(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", max_rows=4, max_bytes=10**6)
    outbox.commit([verdict("v1"), image("i1"), verdict("v2"), image("i2")])
    assert outbox.commit([verdict("v3")]) == Evicted(0, 1)
    assert texts(outbox) == ["v1", "v2", "i2", "v3"]
    assert outbox.commit([verdict("v4"), verdict("v5")]) == Evicted(1, 1)
    assert texts(outbox) == ["v2", "v3", "v4", "v5"]
    assert outbox.evicted == outbox.unreported == Evicted(1, 2)
    outbox.close()
    again = Outbox(tmp_path / "outbox.db", max_rows=4, max_bytes=10**6)
    assert again.unreported == Evicted(1, 2)  # a restart doesn't make a loss unheard of
    again.commit([Message("event", "line/event", b"lost")], reported=Evicted(1, 2))
    assert again.unreported == Evicted(1, 0)  # the event took the place of one more
    assert again.evicted == Evicted(2, 2)


@given(sizes=st.lists(st.tuples(st.sampled_from(["result", "image"]), st.integers(0, 4000)), max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_bounds_hold_and_the_newest_verdicts_stay(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    outbox = Outbox(path, max_rows=12, max_bytes=20_000)
    for n, (kind, size) in enumerate(sizes):
        evicted = outbox.commit([Message(kind, "t", str(n).encode() + bytes(size))])
        if evicted.results:
            assert not any(row.kind == "image" for row in outbox.read(after=0, limit=100))
        assert len(outbox) <= 12
        assert outbox.size_bytes <= 20_000
    kept = outbox.read(after=0, limit=100)
    assert outbox.size_bytes == sum(len(row.payload) + len(row.topic) + 64 for row in kept)
    verdicts = [n for n, (kind, _) in enumerate(sizes) if kind == "result"]
    stored = [int(row.payload.rstrip(b"\0")) for row in kept if row.kind == "result"]
    assert stored == verdicts[len(verdicts) - len(stored) :]  # what is missing is the oldest
    assert sum(outbox.evicted) + len(kept) == len(sizes)
    outbox.close()


def test_reading_is_bounded_on_both_sides(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", **ROOMY)
    outbox.commit([verdict(str(i)) for i in range(10)])
    assert [row.id for row in outbox.read(after=3, up_to=8, limit=3)] == [4, 5, 6]
    assert [row.id for row in outbox.read(after=6, up_to=8, limit=30)] == [7, 8]
    assert outbox.last == 10


def filled(path: Path, n: int) -> int:
    outbox = Outbox(path, **ROOMY)
    outbox.commit([verdict(f"{i:04}" + "x" * 500) for i in range(n)])
    boot = outbox.boot
    outbox.close()
    return boot


def test_a_file_that_is_no_database_is_set_aside_and_replaced(tmp_path):
    path = tmp_path / "outbox.db"
    path.write_bytes(b"these are not the bytes you are looking for" * 100)
    outbox = Outbox(path, **ROOMY)
    assert "is set aside as" in str(outbox.replaced)
    assert "holds the 0 messages that could be read; others may be lost. Check the disk." in str(outbox.replaced)
    outbox.commit([verdict("new")])
    assert texts(outbox) == ["new"]
    assert (tmp_path / "outbox.db.damaged-1").read_bytes().startswith(b"these are not")
    outbox.close()
    assert Outbox(path, **ROOMY).replaced is None  # no loop


def test_rows_around_a_damaged_page_are_saved_and_the_boot_is_a_new_one(tmp_path):
    path = tmp_path / "outbox.db"
    boot = filled(path, 200)
    data = bytearray(path.read_bytes())
    page = data.find(b"0100xxx") // 4096
    data[page * 4096 : page * 4096 + 200] = os.urandom(200)  # the header of one leaf page
    path.write_bytes(data)
    outbox = Outbox(path, **ROOMY)
    saved = [int(text[:4]) for text in texts(outbox)]
    assert saved == sorted(saved)
    assert 150 < len(saved) < 200
    assert {0, 199} <= set(saved)  # from both ends
    assert outbox.boot != boot + 1
    assert f"holds the {len(saved)} messages" in str(outbox.replaced)
    outbox.commit([verdict("next")])
    assert outbox.last > 199  # ids go on above the saved ones


def test_a_flipped_bit_in_a_payload_is_found_in_mid_run_and_the_run_goes_on(tmp_path):
    path = tmp_path / "outbox.db"
    filled(path, 20)
    data = bytearray(path.read_bytes())
    at = data.find(b"0007xxxx")
    data[at + 2] ^= 1  # still a sound database, but no more the verdict that was given
    path.write_bytes(data)
    outbox = Outbox(path, **ROOMY)
    assert outbox.replaced is None
    boot = outbox.boot
    rows = outbox.read(after=0, limit=100)
    assert [int(row.payload[:4]) for row in rows] == [i for i in range(20) if i != 7]
    assert [row.id for row in rows] == [i + 1 for i in range(20) if i != 7]  # the publisher's ids stay valid
    assert "message 8 fails its checksum" in str(outbox.replaced)
    assert outbox.boot == boot  # one run, one boot
    outbox.commit([verdict("next")])
    assert outbox.last == 21


def test_a_replacement_that_was_killed_half_way_is_finished(tmp_path):
    path = tmp_path / "outbox.db"
    filled(path, 5)
    path.rename(tmp_path / "outbox.db.new")  # complete, but not yet in place
    path.write_bytes(b"damaged")
    outbox = Outbox(path, **ROOMY)
    assert len(outbox) == 5
    assert (tmp_path / "outbox.db.damaged-1").read_bytes() == b"damaged"
    outbox.close()
    (tmp_path / "outbox.db").rename(tmp_path / "outbox.db.new")  # the damaged one already moved
    outbox = Outbox(path, **ROOMY)
    assert len(outbox) == 5
    assert not (tmp_path / "outbox.db.damaged-2").exists()


def test_only_the_newest_damaged_files_are_kept(tmp_path):
    path = tmp_path / "outbox.db"
    for n in range(5):
        path.write_bytes(b"damaged %d" % n)
        Outbox(path, **ROOMY).close()
    kept = sorted(path.name for path in tmp_path.glob("*.damaged-*"))
    assert kept == ["outbox.db.damaged-3", "outbox.db.damaged-4", "outbox.db.damaged-5"]


def test_a_full_disk_costs_the_images_first_and_then_says_so(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", **ROOMY)
    outbox.commit([verdict("first")])
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count = {pages + 3}")  # SQLite's own way to a "disk full"
    assert outbox.commit([verdict("v"), image("i", 100_000)]) == Evicted(0, 1)
    assert texts(outbox) == ["first", "v"]
    assert outbox.evicted == Evicted(0, 1)
    with pytest.raises(OutboxError, match=r"can't keep verdicts: the disk is full. Make room"):
        outbox.commit([verdict("x" * 100_000)])
    assert texts(outbox) == ["first", "v"]


WRITER = """
import sys
from pathlib import Path
from edge_agent.outbox import Message, Outbox
outbox = Outbox(Path(sys.argv[1]), max_rows=100000, max_bytes=10**9)
print("boot", outbox.boot, flush=True)
for n in range(10**6):
    outbox.commit([Message("result", "t", b"%d" % n)], forget=[outbox.last - 50])
    print(n, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 40, 130])
def test_a_kill_in_mid_append_leaves_all_that_was_durable(tmp_path, lines):
    path = tmp_path / "outbox.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    durable = [int(line) for line in said if line.strip().isdigit()]
    outbox = Outbox(path, **ROOMY)
    stored = [int(text) for text in texts(outbox)]
    assert outbox.replaced is None
    assert stored == list(range(stored[0], stored[-1] + 1)) if stored else not durable
    assert set(durable[-49:]) <= set(stored)
    assert outbox.boot == int(said[0].split()[1]) + 1


def test_a_database_locked_by_a_plain_reader_waits_its_turn(tmp_path):
    path = tmp_path / "outbox.db"
    filled(path, 3)
    reader = sqlite3.connect(path)  # someone looks into it with the sqlite3 shell
    assert reader.execute("SELECT count(*) FROM outbox").fetchone() == (3,)
    reader.close()
    assert len(Outbox(path, **ROOMY)) == 3


def test_values_are_kept_in_one_transaction_with_messages_over_restarts_and_damage(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, **ROOMY)
    outbox.commit([verdict("x" * 5000)], keep={"orders": b"1.1", "command/1": b"done"})
    outbox.commit([], keep={"orders": b"1.2", "command/1": None})
    outbox.close()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"xxxx", b"xxxy"))  # the message is damaged, the value isn't
    outbox = Outbox(path, **ROOMY)
    assert outbox.recall() == {"orders": b"1.2"}
    outbox.read(after=0, limit=9)
    assert outbox.replaced
    assert outbox.recall() == {"orders": b"1.2"}
    with pytest.raises(TypeError):
        outbox.commit([verdict("never")], keep={"orders": "no bytes"})  # the whole transaction is given back
    assert (texts(outbox), outbox.recall()) == ([], {"orders": b"1.2"})
    outbox.close()
    path.write_bytes(path.read_bytes().replace(b"1.2", b"9.2"))
    outbox = Outbox(path, **ROOMY)
    assert outbox.recall() == {}  # a value that fails its checksum is none
    outbox.close()
