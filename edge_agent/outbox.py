"""Messages on disk until the broker has acknowledged them: SQLite, WAL, synchronous=FULL.

Bounded in rows and bytes. When full, the oldest images make room first, then the oldest verdicts; every one is counted.
Beside the messages it keeps small values that must change in one transaction with them: what was commanded.
A damaged database is set aside beside the new one, which takes over every row that can still be read and checked.
"""

import secrets
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from edge_agent.durable import sync_folder

Kind = Literal["result", "image", "event"]
Result = TypeVar("Result")

ROW_OVERHEAD_BYTES = 64  # what a row takes beside its topic and payload, about
KEPT_DAMAGED = 3  # set-aside databases that stay for a look; older ones are deleted

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


class OutboxError(RuntimeError):
    """The outbox can't keep messages; the text says why and what to do."""


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


class Evicted(NamedTuple):
    """How many messages a full outbox has dropped."""

    results: int = 0
    images: int = 0


class Outbox:
    """Owned by one thread at a time, and by one process: a second agent on the same file is refused."""

    def __init__(self, path: Path, *, max_rows: int, max_bytes: int):
        """Open or create. Raises OutboxError where the file can't be written or another agent has it."""
        self._path = path
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._rows = self._bytes = self._last = 0
        self.replaced: str | None = None  # a sentence, once a damaged database had to be replaced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _finish_replacement(path)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._replace(error)
            with _transaction(self._db):
                self.boot = self._count("boot", 1)
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(_sentence(path, error)) from error

    def commit(
        self,
        messages: Sequence[Message],
        forget: Collection[int] = (),
        *,
        lost: Evicted = Evicted(),
        reported: Evicted = Evicted(),
        keep: Mapping[str, bytes | None] | None = None,
    ) -> Evicted:
        """Store `messages` and drop the acknowledged rows, in one transaction; returns once that is durable.

        The value is what had to make room. `lost` is what the caller gives up, among `forget`, and is counted as well;
        `reported` is what of `unreported` the messages tell about. `keep` are values by name (None: keep it no longer),
        for `recall`; how many there are is the caller's to limit.
        A database found damaged is replaced, and the messages are stored in the new one.
        """
        try:
            return self._whole(lambda: self._commit(messages, forget, lost, reported, keep or {}))
        except sqlite3.Error as error:
            without_images = [message for message in messages if message.kind != "image"]
            images = len(messages) - len(without_images)
            if "full" not in str(error) or not images:
                raise OutboxError(_sentence(self._path, error)) from error
        try:
            lost = Evicted(lost.results, lost.images + images)
            evicted = self._commit(without_images, forget, lost, reported, keep or {})
        except sqlite3.Error as error:
            raise OutboxError(_sentence(self._path, error)) from error
        return Evicted(evicted.results, evicted.images + images)

    def read(self, *, after: int, limit: int, up_to: int | None = None) -> list[Row]:
        """At most `limit` rows with after < id <= up_to, oldest first."""
        try:
            return self._whole(lambda: self._read(after, limit, up_to))
        except sqlite3.Error as error:
            raise OutboxError(_sentence(self._path, error)) from error

    def recall(self) -> dict[str, bytes]:
        """All values that are kept, by name; without those that fail their checksum."""
        try:
            return self._whole(lambda: _sound_values(self._db))
        except sqlite3.Error as error:
            raise OutboxError(_sentence(self._path, error)) from error

    def __len__(self) -> int:
        return self._rows

    @property
    def size_bytes(self) -> int:
        return self._bytes

    @property
    def is_full(self) -> bool:
        """The next message would push out an older one, or nearly so."""
        return self._rows >= self._max_rows or self._bytes > 0.99 * self._max_bytes

    @property
    def last(self) -> int:
        """The newest id given so far; 0 before the first."""
        return self._last

    @property
    def evicted(self) -> Evicted:
        """All that was ever dropped, over restarts too."""
        return Evicted(self._counter("evicted_results"), self._counter("evicted_images"))

    @property
    def unreported(self) -> Evicted:
        """What was dropped and no stored message has told about yet, over restarts too."""
        results, images = self.evicted
        return Evicted(results - self._counter("reported_results"), images - self._counter("reported_images"))

    def close(self) -> None:
        self._db.close()

    def _whole(self, operation: Callable[[], Result]) -> Result:
        """Run on a sound database: once more on a new one where the present one turns out to be damaged."""
        try:
            return operation()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._db.close()
            self._replace(error)
            return operation()

    def _open(self) -> None:
        database = _connect(self._path)
        try:
            if (problem := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(problem)
            with _transaction(database):
                _create(database)
        except sqlite3.Error:
            database.close()
            raise
        self._db = database
        self._measure()

    def _measure(self) -> None:
        self._rows, self._bytes = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        given = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        self._last = given[0] if given else 0

    def _read(self, after: int, limit: int, up_to: int | None) -> list[Row]:
        query = "SELECT id, kind, topic, payload, crc FROM outbox WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        found = self._db.execute(query, (after, self._last if up_to is None else up_to, limit)).fetchall()
        for id_, _, topic, payload, crc in found:
            if crc != _crc(topic, payload):
                raise sqlite3.DatabaseError(f"message {id_} fails its checksum")
        return [Row(*row[:4]) for row in found]

    def _commit(
        self,
        messages: Sequence[Message],
        forget: Collection[int],
        lost: Evicted,
        reported: Evicted,
        keep: Mapping[str, bytes | None],
    ) -> Evicted:
        rows, size = self._rows, self._bytes
        with _transaction(self._db):
            for id_ in forget:
                found = self._db.execute("DELETE FROM outbox WHERE id = ? RETURNING size", (id_,)).fetchall()
                rows, size = rows - len(found), size - sum(row[0] for row in found)
            last = _insert(self._db, ((None, *message) for message in messages)) or self._last
            rows, size = rows + len(messages), size + sum(map(_size, messages))
            evicted = []
            for kind in ("image", "result"):
                victims, freed = self._oldest_until_it_fits(kind, rows, size)
                self._db.executemany("DELETE FROM outbox WHERE id = ?", victims)
                rows, size = rows - len(victims), size - freed
                evicted.append(len(victims))
            images, results = evicted
            self._count("evicted_results", results + lost.results)
            self._count("evicted_images", images + lost.images)
            self._count("reported_results", reported.results)
            self._count("reported_images", reported.images)
            _keep(self._db, keep)
        self._rows, self._bytes, self._last = rows, size, last
        return Evicted(results, images)

    def _oldest_until_it_fits(self, kind: str, rows: int, size: int) -> tuple[list[tuple[int]], int]:
        victims: list[tuple[int]] = []
        freed = 0
        if rows <= self._max_rows and size <= self._max_bytes:
            return victims, freed
        for id_, row_size in self._db.execute("SELECT id, size FROM outbox WHERE kind = ? ORDER BY id", (kind,)):
            if rows - len(victims) <= self._max_rows and size - freed <= self._max_bytes:
                break
            victims.append((id_,))
            freed += row_size
        return victims, freed

    def _counter(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
        return row[0] if row else 0

    def _count(self, name: str, by: int) -> int:
        if not by:
            return 0
        self._db.execute("INSERT INTO counter VALUES (?, 0) ON CONFLICT DO NOTHING", (name,))
        self._db.execute("UPDATE counter SET value = value + ? WHERE name = ?", (by, name))
        return self._counter(name)

    def _replace(self, error: sqlite3.Error) -> None:
        """Set the damaged file aside and go on with a new one that holds what could be saved."""
        known_last = self._last
        rows, counters, kept = _salvage(self._path)
        building, complete = _beside(self._path, ".building"), _beside(self._path, ".new")
        for stale in (building, _beside(building, "-wal"), _beside(building, "-shm")):
            stale.unlink(missing_ok=True)
        database = _connect(building)
        with _transaction(database):
            _create(database)
            _insert(database, rows)
            for name in ("evicted_results", "evicted_images", "reported_results", "reported_images"):
                if name in counters:
                    database.execute("INSERT INTO counter VALUES (?, ?)", (name, counters[name]))
            _keep(database, kept)
            newest = max([known_last, *(row[0] for row in rows)])
            database.execute("DELETE FROM sqlite_sequence")
            database.execute("INSERT INTO sqlite_sequence VALUES ('outbox', ?)", (newest,))
        database.close()
        building.rename(complete)
        aside = _finish_replacement(self._path)
        self._open()
        self.replaced = (
            f"The outbox {self._path} was damaged ({error}). It is set aside as {aside}, and a new one "
            f"holds the {len(rows)} messages that could be read; others may be lost. Check the disk."
        )


class _transaction:  # noqa: N801
    """BEGIN and COMMIT around a block, ROLLBACK when it raises."""

    def __init__(self, database: sqlite3.Connection):
        self._db = database

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
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


def _create(database: sqlite3.Connection) -> None:
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    # A new database can't know which boot ids an earlier one gave, so it starts at random: ids never repeat.
    database.execute("INSERT INTO counter VALUES ('boot', ?) ON CONFLICT DO NOTHING", (secrets.randbelow(2**30),))


def _insert(database: sqlite3.Connection, rows: Iterable[tuple[int | None, Kind, str, bytes]]) -> int | None:
    last = None
    for id_, kind, topic, payload in rows:
        size = _size(Message(kind, topic, payload))
        values = (id_, kind, size, _crc(topic, payload), topic, payload)
        last = database.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid
    return last


def _keep(database: sqlite3.Connection, values: Mapping[str, bytes | None]) -> None:
    for name, value in values.items():
        if value is None:
            database.execute("DELETE FROM kept WHERE name = ?", (name,))
        else:
            database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (name, _crc(name, value), value))


def _sound_values(database: sqlite3.Connection) -> dict[str, bytes]:
    found = database.execute("SELECT name, crc, value FROM kept").fetchall()
    return {name: value for name, crc, value in found if isinstance(value, bytes) and crc == _crc(name, value)}


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload) + ROW_OVERHEAD_BYTES


def _crc(topic: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(topic.encode()))


def _is_damage(error: sqlite3.Error) -> bool:
    """SQLite reports a malformed file by the base class; a full disk, a lock or missing rights by OperationalError."""
    return type(error) is sqlite3.DatabaseError


def _salvage(path: Path) -> tuple[list[tuple[int, Kind, str, bytes]], dict[str, int], dict[str, bytes]]:
    """Rows, counters and kept values of a damaged database; rows are read from both ends up to where it breaks.

    Rows and values pass their checksum.
    """
    found: dict[int, tuple[int, Kind, str, bytes]] = {}
    counters: dict[str, int] = {}
    try:
        database = _connect(path)
    except sqlite3.Error:
        return [], {}, {}
    for direction in ("ASC", "DESC"):
        try:
            for id_, kind, crc, topic, payload in database.execute(
                f"SELECT id, kind, crc, topic, payload FROM outbox ORDER BY id {direction}"
            ):
                if id_ in found:
                    break
                if isinstance(payload, bytes) and isinstance(topic, str) and crc == _crc(topic, payload):
                    found[id_] = (id_, kind, topic, payload)
        except (sqlite3.Error, UnicodeDecodeError):
            continue
    try:
        counters = dict(database.execute("SELECT name, value FROM counter").fetchall())
    except (sqlite3.Error, UnicodeDecodeError):
        counters = {}
    try:
        kept = _sound_values(database)
    except (sqlite3.Error, UnicodeDecodeError):
        kept = {}
    database.close()
    return [found[id_] for id_ in sorted(found)], counters, kept


def _finish_replacement(path: Path) -> Path | None:
    """Move a complete new database into place, the damaged one aside; goes on where a killed process stopped."""
    complete = _beside(path, ".new")
    if not complete.exists():
        return None
    earlier = _numbered(path)
    aside = _beside(path, f".damaged-{earlier[-1][0] + 1 if earlier else 1}")
    if path.exists():
        path.rename(aside)
    elif earlier:
        aside = earlier[-1][1]
    for suffix in ("-wal", "-shm"):
        if (part := _beside(path, suffix)).exists():
            part.rename(_beside(aside, suffix))
    complete.rename(path)
    sync_folder(path.parent)
    for _, old in _numbered(path)[:-KEPT_DAMAGED]:
        for suffix in ("", "-wal", "-shm"):
            _beside(old, suffix).unlink(missing_ok=True)
    return aside


def _numbered(path: Path) -> list[tuple[int, Path]]:
    """The databases set aside so far, oldest first."""
    start = f"{path.name}.damaged-"
    numbers = [name.name.removeprefix(start) for name in path.parent.glob(f"{start}*")]
    return [(n, _beside(path, f".damaged-{n}")) for n in sorted(int(n) for n in numbers if n.isdigit())]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sentence(path: Path, error: Exception) -> str:
    text = str(error)
    if "locked" in text:
        return f"The outbox {path} is in use by another agent. Stop that one, or give this one its own outbox.path."
    if "full" in text:
        return f"The outbox {path} can't keep verdicts: the disk is full. Make room, then start the agent again."
    return f"The outbox {path} can't be written ({text}). Give the agent's user the right to write in that folder."
