"""Messages on disk until the broker has acknowledged them: SQLite, WAL, synchronous=FULL.

Bounded in rows and bytes. When full, the oldest images make room first, then the oldest verdicts; every one is counted.
Beside the messages it keeps small values that must change in one transaction with them: what was commanded.
A damaged database is set aside beside the new one, which takes over every row that can still be read and checked.
While the disk takes nothing, messages are held in memory up to a limit, and read from there like all others.
"""

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from edge_agent.outbox.file import (
    COUNTERS,
    Message,
    Row,
    beside,
    build_replacement,
    checksum,
    connect,
    create,
    finish_replacement,
    insert,
    is_damage,
    keep_values,
    size_of,
    sound_values,
    transaction,
)
from edge_agent.outbox.held import Held

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_S = 1.0  # a disk that takes nothing is tried again so often ...
RETRY_MAX_S = 30.0  # ... and less often, up to this, where it fails again soon after each recovery
CALM_S = 60.0  # "soon"
BATCH = 256  # held messages that one transaction brings to the disk
ROOM_BYTES = 256 * 1024  # that must be free before memory is left
NO_COUNT = 2**30  # boots from here on are random: the disk could not count this one


class OutboxError(RuntimeError):
    """The outbox can't keep messages; the text says why and what to do."""


class Evicted(NamedTuple):
    """How many messages a full outbox has dropped."""

    results: int = 0
    images: int = 0


class Outbox:
    """Owned by one thread at a time, and by one process: a second agent on the same file is refused.

    memory_rows: how many messages are held while the disk takes none; 0: such a disk is an OutboxError.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int,
        max_bytes: int,
        memory_rows: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        """Open or create. Raises OutboxError where the file can't be written or another agent has it.

        With memory_rows, a file that is there but takes no boot count is enough; the boot is a random one then.
        """
        self._path = path
        self._max_rows, self._max_bytes, self._memory_rows = max_rows, max_bytes, memory_rows
        self._monotonic = monotonic
        self._rows = self._bytes = self._last = 0
        self._counters: dict[str, int] = {}
        self._db: sqlite3.Connection | None = None  # None: a damaged file that could not be replaced yet
        self._held: Held | None = None  # while the disk takes nothing
        self._retry_at, self._retry_s, self._recovered = 0.0, RETRY_S, float("-inf")
        self.most_held = 0  # messages in memory at one time, of the last episode that ended
        self.replaced: str | None = None  # a sentence, once a damaged database had to be replaced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            finish_replacement(path)
            self._open_or_replace()
            try:
                with transaction(self._database):
                    self.boot = self._count("boot", 1)
            except sqlite3.OperationalError as error:
                if not memory_rows:
                    raise
                self.boot = NO_COUNT + secrets.randbelow(NO_COUNT)
                self._begin_to_hold(error)
        except (OSError, sqlite3.Error) as error:
            if self._db is not None:
                self._db.close()
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
        """Store `messages` and drop the acknowledged rows, in one transaction; returns once that is durable, or held.

        The value is what had to make room. `lost` is what the caller gives up, among `forget`, and is counted as well;
        `reported` is what of `unreported` the messages tell about. `keep` are values by name (None: keep it no longer),
        for `recall`; how many there are is the caller's to limit.
        A database found damaged is replaced, and the messages are stored in the new one.
        """
        if self._held is None:
            try:
                return self._store(messages, forget, lost, reported, keep or {})
            except (OSError, sqlite3.OperationalError) as error:
                if not self._memory_rows:
                    raise OutboxError(_sentence(self._path, error)) from error
                self._begin_to_hold(error)
            except sqlite3.Error as error:
                raise OutboxError(_sentence(self._path, error)) from error
        evicted = self._hold(messages, forget, lost, reported, keep or {})
        self._catch_up()
        return evicted

    def read(self, *, after: int, limit: int, up_to: int | None = None) -> list[Row]:
        """At most `limit` rows with after < id <= up_to, oldest first."""
        end = self._last if up_to is None else up_to
        try:
            rows = self._whole(lambda: self._read(after, limit, end))
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(_sentence(self._path, error)) from error
        return rows if self._held is None else rows + self._held.after(after, limit - len(rows), end)

    def recall(self) -> dict[str, bytes]:
        """All values that are kept, by name; without those that fail their checksum."""
        try:
            found = self._whole(lambda: sound_values(self._database))
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(_sentence(self._path, error)) from error
        for name, value in self._held.keep.items() if self._held is not None else ():
            found.pop(name, None)
            if value is not None:
                found[name] = value
        return found

    def __len__(self) -> int:
        return max(self._rows - (len(self._held.forgotten) if self._held is not None else 0), 0) + self.held

    @property
    def size_bytes(self) -> int:
        return self._bytes + (self._held.size_bytes if self._held is not None else 0)

    @property
    def is_full(self) -> bool:
        """The next message would push out an older one, or nearly so."""
        if self._held is not None:
            return self._held.is_full
        return self._rows >= self._max_rows or self._bytes > 0.99 * self._max_bytes

    @property
    def held(self) -> int:
        """Messages in memory, because the disk takes nothing."""
        return len(self._held) if self._held is not None else 0

    @property
    def trouble(self) -> str | None:
        """Why messages are held in memory, a sentence; None where the disk takes them."""
        return self._held.why if self._held is not None else None

    @property
    def last(self) -> int:
        """The newest id given so far; 0 before the first."""
        return self._last

    @property
    def evicted(self) -> Evicted:
        """All that was ever dropped, over restarts too."""
        return Evicted(self._counted("evicted_results"), self._counted("evicted_images"))

    @property
    def unreported(self) -> Evicted:
        """What was dropped and no stored message has told about yet, over restarts too."""
        results, images = self.evicted
        return Evicted(results - self._counted("reported_results"), images - self._counted("reported_images"))

    def close(self) -> None:
        """What is held in memory goes to the disk if it can; otherwise the log says how much is lost."""
        self._retry_at = 0.0
        self._catch_up()
        if self._held is not None and self.held:
            log.error(
                "%d messages were held in memory and are lost with the end of the agent. %s", self.held, self._held.why
            )
        if self._db is not None:
            self._db.close()

    @property
    def _database(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("the file is damaged and can't be replaced")
        return self._db

    def _store(
        self,
        messages: Sequence[Message],
        forget: Collection[int],
        lost: Evicted,
        reported: Evicted,
        keep: Mapping[str, bytes | None],
    ) -> Evicted:
        """To the disk; without the pictures where it has no room for them."""
        rows, counts = self._numbered(messages), _counts(lost, reported)
        try:
            return self._whole(lambda: self._write(rows, forget, counts, keep))
        except sqlite3.OperationalError as error:
            without_images = [message for message in messages if message.kind != "image"]
            images = len(messages) - len(without_images)
            if "full" not in str(error) or not images:
                raise
        rows, counts = self._numbered(without_images), _counts(Evicted(lost.results, lost.images + images), reported)
        evicted = self._whole(lambda: self._write(rows, forget, counts, keep))
        return Evicted(evicted.results, evicted.images + images)

    def _numbered(self, messages: Sequence[Message]) -> list[Row]:
        return [Row(id_, *message) for id_, message in enumerate(messages, self._last + 1)]

    def _begin_to_hold(self, error: Exception) -> None:
        if self._monotonic() - self._recovered > CALM_S:
            self._retry_s = RETRY_S
        else:
            self._retry_s = min(RETRY_MAX_S, 2.0 * self._retry_s)
        self._retry_at = self._monotonic() + self._retry_s
        self._held = Held(_sentence(self._path, error), max_rows=self._memory_rows)

    def _hold(
        self,
        messages: Sequence[Message],
        forget: Collection[int],
        lost: Evicted,
        reported: Evicted,
        keep: Mapping[str, bytes | None],
    ) -> Evicted:
        assert self._held is not None
        self._held.forget(forget)
        evicted = Evicted(*self._held.take(messages, self._last + 1))
        self._last += len(messages)
        for name, by in _counts(lost, reported).items():
            self._held.count(name, by)
        self._held.hold(keep)
        return evicted

    def _catch_up(self) -> None:
        """Bring what is held to the disk, oldest first, if the disk takes it again."""
        if (held := self._held) is None or self._monotonic() < self._retry_at:
            return
        try:
            if self._db is None:
                self._open_or_replace()
            self._whole(lambda: self._write([], held.forgotten, held.counts, held.keep))
            held.settled()
            while rows := held.after(0, BATCH, self._last):
                self._whole(lambda rows=rows: self._write(rows, (), {}, {}))  # type: ignore[misc]
                held.written(rows)
            _try_room(beside(self._path, ".room"))
        except (OSError, sqlite3.Error) as error:
            held.why = _sentence(self._path, error)
            self._retry_at = self._monotonic() + self._retry_s
            return
        self._held, self.most_held, self._recovered = None, held.most, self._monotonic()

    def _whole(self, operation: Callable[[], Result]) -> Result:
        """Run on a sound database: once more on a new one where the present one turns out to be damaged."""
        try:
            return operation()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._database.close()
            self._db = None
            self._replace(error)
            return operation()

    def _open_or_replace(self) -> None:
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._replace(error)

    def _open(self) -> None:
        database = connect(self._path)
        try:
            if (problem := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(problem)
            with transaction(database):
                create(database)
            self._measure(database)
        except sqlite3.Error:
            database.close()
            raise
        self._db = database

    def _measure(self, database: sqlite3.Connection) -> None:
        rows, size = database.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        counters = dict(database.execute("SELECT name, value FROM counter").fetchall())
        if not all(isinstance(each, int) for each in (size, *counters.values())) or "boot" not in counters:
            raise sqlite3.DatabaseError("a count in it is no number")
        given = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        self._last = max(self._last, given[0] if given else 0)
        self._rows, self._bytes, self._counters = rows, size, counters

    def _read(self, after: int, limit: int, up_to: int) -> list[Row]:
        query = "SELECT id, kind, topic, payload, crc FROM outbox WHERE id > ? AND id <= ? ORDER BY id"
        gone = self._held.forgotten if self._held is not None else ()
        rows: list[Row] = []
        for id_, kind, topic, payload, crc in self._database.execute(query, (after, up_to)):
            if len(rows) == limit:
                break
            if not (isinstance(topic, str) and isinstance(payload, bytes)) or crc != checksum(topic, payload):
                raise sqlite3.DatabaseError(f"message {id_} fails its checksum")
            if id_ not in gone:
                rows.append(Row(id_, kind, topic, payload))
        return rows

    def _write(
        self, rows: Sequence[Row], forget: Collection[int], counts: Mapping[str, int], keep: Mapping[str, bytes | None]
    ) -> Evicted:
        """One transaction."""
        database, total, size, counters = self._database, self._rows, self._bytes, dict(self._counters)
        try:
            with transaction(database):
                for id_ in forget:
                    found = database.execute("DELETE FROM outbox WHERE id = ? RETURNING size", (id_,)).fetchall()
                    total, size = total - len(found), size - sum(row[0] for row in found)
                insert(database, rows)
                total, size = total + len(rows), size + sum(map(size_of, rows))
                evicted = []
                for kind in ("image", "result"):
                    victims, freed = self._oldest_until_it_fits(kind, total, size)
                    database.executemany("DELETE FROM outbox WHERE id = ?", victims)
                    total, size = total - len(victims), size - freed
                    evicted.append(len(victims))
                images, results = evicted
                for name, by in {"evicted_results": results, "evicted_images": images}.items():
                    self._count(name, by + counts.get(name, 0))
                for name in ("reported_results", "reported_images"):
                    self._count(name, counts.get(name, 0))
                keep_values(database, keep)
        except BaseException:
            self._counters = counters
            raise
        self._rows, self._bytes = total, size
        self._last = max(self._last, *(row.id for row in rows), 0)
        return Evicted(results, images)

    def _oldest_until_it_fits(self, kind: str, rows: int, size: int) -> tuple[list[tuple[int]], int]:
        victims: list[tuple[int]] = []
        freed = 0
        if rows <= self._max_rows and size <= self._max_bytes:
            return victims, freed
        query = "SELECT id, size FROM outbox WHERE kind = ? ORDER BY id"
        for id_, row_size in self._database.execute(query, (kind,)):
            if rows - len(victims) <= self._max_rows and size - freed <= self._max_bytes:
                break
            victims.append((id_,))
            freed += row_size
        return victims, freed

    def _counted(self, name: str) -> int:
        return self._counters.get(name, 0) + (self._held.counts.get(name, 0) if self._held is not None else 0)

    def _count(self, name: str, by: int) -> int:
        """Within a transaction."""
        if by:
            self._database.execute("INSERT INTO counter VALUES (?, 0) ON CONFLICT DO NOTHING", (name,))
            self._database.execute("UPDATE counter SET value = value + ? WHERE name = ?", (by, name))
            self._counters[name] = self._counters.get(name, 0) + by
        return self._counters.get(name, 0)

    def _replace(self, error: sqlite3.Error) -> None:
        """Set the damaged file aside and go on with a new one that holds what could be saved."""
        aside, saved = build_replacement(self._path, self._last)
        self._open()
        self.replaced = (
            f"The outbox {self._path} was damaged ({error}). It is set aside as {aside}, and a new one "
            f"holds the {saved} messages that could be read; others may be lost. Check the disk."
        )


def _counts(lost: Evicted, reported: Evicted) -> dict[str, int]:
    return dict(zip(COUNTERS, (*lost, *reported), strict=True))


def _try_room(path: Path) -> None:
    """OSError where the disk hasn't the room for what comes next: leaving memory too early would only repeat it."""
    try:
        path.write_bytes(bytes(ROOM_BYTES))
    finally:
        path.unlink(missing_ok=True)


def _sentence(path: Path, error: Exception) -> str:
    text = str(error)
    if "locked" in text:
        return f"The outbox {path} is in use by another agent. Stop that one, or give this one its own outbox.path."
    if "full" in text or "No space" in text:
        return f"The outbox {path} can't keep verdicts: the disk is full. Make room on it."
    return f"The outbox {path} can't be written ({text}). Give the agent's user the right to write in that folder."
