"""What waits in memory while the outbox's disk takes nothing: bounded, in order, counted."""

from collections.abc import Collection, Mapping, Sequence

from edge_agent.outbox.file import Message, Row, size_of

MAX_BYTES = 64 * 1024**2


class Held:
    """Messages and changes that the disk has not taken. `why`: a sentence for people.

    No picture is kept. When there is no more room the oldest message goes; verdicts among them are counted.
    """

    def __init__(self, why: str, *, max_rows: int, max_bytes: int = MAX_BYTES):
        self.why = why
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._rows: dict[int, Row] = {}  # by id, oldest first
        self._bytes = 0
        self.forgotten: set[int] = set()  # rows on the disk that the broker has
        self.keep: dict[str, bytes | None] = {}
        self.counts: dict[str, int] = {}  # to be added to the counters on the disk
        self.most = 0  # rows that were held at one time

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= self._max_rows or self._bytes > 0.99 * self._max_bytes

    def forget(self, ids: Collection[int]) -> None:
        for id_ in ids:
            if self._drop(id_) is None:
                self.forgotten.add(id_)

    def take(self, messages: Sequence[Message], first_id: int) -> tuple[int, int]:
        """Hold what there is room for; how many verdicts and how many pictures were dropped. Ids rise from first_id."""
        results = images = 0
        for id_, message in enumerate(messages, first_id):
            if message.kind == "image":
                images += 1
                continue
            row = Row(id_, *message)
            self._rows[id_] = row
            self._bytes += size_of(row)
            while len(self._rows) > self._max_rows or self._bytes > self._max_bytes:
                oldest = self._drop(next(iter(self._rows)))
                results += oldest is not None and oldest.kind == "result"
        self.most = max(self.most, len(self._rows))
        self.count("evicted_results", results)
        self.count("evicted_images", images)
        return results, images

    def count(self, name: str, by: int) -> None:
        if by:
            self.counts[name] = self.counts.get(name, 0) + by

    def after(self, id_: int, limit: int, up_to: int) -> list[Row]:
        """At most `limit` rows with id_ < id <= up_to, oldest first."""
        found: list[Row] = []
        for row in self._rows.values():
            if len(found) >= limit or row.id > up_to:
                break
            if row.id > id_:
                found.append(row)
        return found

    def written(self, rows: Collection[Row]) -> None:
        """The disk has these."""
        for row in rows:
            self._drop(row.id)

    def settled(self) -> None:
        """The disk has all but the rows."""
        self.forgotten, self.keep, self.counts = set(), {}, {}

    def hold(self, keep: Mapping[str, bytes | None]) -> None:
        self.keep.update(keep)

    def _drop(self, id_: int) -> Row | None:
        row = self._rows.pop(id_, None)
        if row is not None:
            self._bytes -= size_of(row)
        return row
