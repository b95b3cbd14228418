"""The outbox's file: its tables, and how a damaged one is salvaged and replaced.

A damaged database is set aside beside the new one, which takes over every row that can still be read and checked.
"""

import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from edge_agent.durable import sync_folder

Kind = Literal["result", "image", "event"]

ROW_OVERHEAD_BYTES = 64  # what a row takes beside its topic and payload, about
KEPT_DAMAGED = 3  # set-aside databases that stay for a look; older ones are deleted
# What an OperationalError says where the file is sound and the disk, or who asks, is not.
PASSING = ("full", "locked", "readonly", "disk I/O", "unable to open", "memory", "interrupted")
COUNTERS = ("evicted_results", "evicted_images", "reported_results", "reported_images")

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, so an old acknowledgement can't hit a new row
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_kind ON outbox (kind, id);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL);
"""


class Message(NamedTuple):
    """What is to be published, at QoS 1 and not retained."""

    kind: Kind
    topic: str
    payload: bytes


class Row(NamedTuple):
    """A message in the outbox; `id` rises with time."""

    id: int
    kind: Kind
    topic: str
    payload: bytes


def build_replacement(path: Path, known_last: int) -> tuple[Path | None, int]:
    """A new database in the place of a damaged one; where that one went, and how many messages were saved from it."""
    rows, counters, kept = salvage(path)
    building, complete = beside(path, ".building"), beside(path, ".new")
    for stale in (building, beside(building, "-wal"), beside(building, "-shm")):
        stale.unlink(missing_ok=True)
    database = connect(building)
    try:
        with transaction(database):
            create(database)
            insert(database, rows)
            for name in COUNTERS:
                if name in counters:
                    database.execute("INSERT INTO counter VALUES (?, ?)", (name, counters[name]))
            keep_values(database, kept)
            newest = max([known_last, *(row.id for row in rows)])
            database.execute("DELETE FROM sqlite_sequence")
            database.execute("INSERT INTO sqlite_sequence VALUES ('outbox', ?)", (newest,))
    finally:
        database.close()
    building.rename(complete)
    return finish_replacement(path), len(rows)


class transaction:  # noqa: N801
    """BEGIN and COMMIT around a block, ROLLBACK when it raises."""

    def __init__(self, database: sqlite3.Connection):
        self._db = database

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def connect(path: Path) -> sqlite3.Connection:
    """Open for one process alone; SQLite lets the file go when the process ends, however it ends."""
    database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA journal_size_limit = 16777216")
    except sqlite3.Error:
        database.close()
        raise
    return database


def create(database: sqlite3.Connection) -> None:
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    # A new database can't know which boot ids an earlier one gave, so it starts at random: ids never repeat.
    database.execute("INSERT INTO counter VALUES ('boot', ?) ON CONFLICT DO NOTHING", (secrets.randbelow(2**30),))


def insert(database: sqlite3.Connection, rows: Iterable[Row]) -> None:
    for row in rows:
        values = (row.id, row.kind, size_of(row), checksum(row.topic, row.payload), row.topic, row.payload)
        database.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)", values)


def keep_values(database: sqlite3.Connection, values: Mapping[str, bytes | None]) -> None:
    for name, value in values.items():
        if value is None:
            database.execute("DELETE FROM kept WHERE name = ?", (name,))
        else:
            database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (name, checksum(name, value), value))


def sound_values(database: sqlite3.Connection) -> dict[str, bytes]:
    found = database.execute("SELECT name, crc, value FROM kept").fetchall()
    return {name: value for name, crc, value in found if isinstance(value, bytes) and crc == checksum(name, value)}


def size_of(message: Message | Row) -> int:
    return len(message.topic) + len(message.payload) + ROW_OVERHEAD_BYTES


def checksum(topic: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(topic.encode()))


def is_damage(error: sqlite3.Error) -> bool:
    """SQLite reports a malformed file by the base class, or by an OperationalError about its format or its tables.

    A full disk, a lock or missing rights are OperationalErrors, too.
    """
    if type(error) is sqlite3.DatabaseError:
        return True
    return isinstance(error, sqlite3.OperationalError) and not any(text in str(error) for text in PASSING)


def salvage(path: Path) -> tuple[list[Row], dict[str, int], dict[str, bytes]]:
    """Rows, counters and kept values of a damaged database; rows are read from both ends up to where it breaks.

    Rows and values pass their checksum.
    """
    found: dict[int, Row] = {}
    counters: dict[str, int] = {}
    try:
        database = connect(path)
    except sqlite3.Error:
        return [], {}, {}
    for direction in ("ASC", "DESC"):
        try:
            for id_, kind, crc, topic, payload in database.execute(
                f"SELECT id, kind, crc, topic, payload FROM outbox ORDER BY id {direction}"
            ):
                if id_ in found:
                    break
                if isinstance(payload, bytes) and isinstance(topic, str) and crc == checksum(topic, payload):
                    found[id_] = Row(id_, kind, topic, payload)
        except (sqlite3.Error, UnicodeDecodeError):
            continue
    try:
        counters = dict(database.execute("SELECT name, value FROM counter").fetchall())
    except (sqlite3.Error, UnicodeDecodeError):
        counters = {}
    try:
        kept = sound_values(database)
    except (sqlite3.Error, UnicodeDecodeError):
        kept = {}
    database.close()
    return [found[id_] for id_ in sorted(found)], counters, kept


def finish_replacement(path: Path) -> Path | None:
    """Move a complete new database into place, the damaged one aside; goes on where a killed process stopped."""
    complete = beside(path, ".new")
    if not complete.exists():
        return None
    earlier = _numbered(path)
    aside = beside(path, f".damaged-{earlier[-1][0] + 1 if earlier else 1}")
    if path.exists():
        path.rename(aside)
    elif earlier:
        aside = earlier[-1][1]
    for suffix in ("-wal", "-shm"):
        if (part := beside(path, suffix)).exists():
            part.rename(beside(aside, suffix))
    complete.rename(path)
    sync_folder(path.parent)
    for _, old in _numbered(path)[:-KEPT_DAMAGED]:
        for suffix in ("", "-wal", "-shm"):
            beside(old, suffix).unlink(missing_ok=True)
    return aside


def _numbered(path: Path) -> list[tuple[int, Path]]:
    """The databases set aside so far, oldest first."""
    start = f"{path.name}.damaged-"
    numbers = [name.name.removeprefix(start) for name in path.parent.glob(f"{start}*")]
    return [(n, beside(path, f".damaged-{n}")) for n in sorted(int(n) for n in numbers if n.isdigit())]


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
