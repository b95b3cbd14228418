"""Which bundle serves, which served before, and how far back nobody may go: a file that outlives a power cut.

It is replaced as a whole: written beside, synced, renamed, and the folder synced. Whoever reads it finds the old state
or the new one.
"""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.bundle import Bundle
from edge_agent.durable import sync_folder
from edge_agent.models.judge import Key, key_of, name_of

log = logging.getLogger(__name__)

FORMAT = 1
EARLIER = 4  # bundles that a rollback can go back to
MAX_BYTES = 2**20


class RecordError(OSError):
    """The record can't be written; the text says why. What it said before still holds."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Served(_Part):
    """A bundle, and where it lay."""

    folder: str
    digest: str
    name: str
    version: int

    @classmethod
    def of(cls, bundle: Bundle) -> "Served":
        manifest = bundle.manifest
        folder = str(bundle.folder.absolute())
        return cls(folder=folder, digest=bundle.digest, name=manifest.name, version=manifest.version)


class Entry(_Part):
    """What the record says of one camera, or of one camera and product."""

    serving: Served
    configured: Served  # the bundle of the agent's file when this was written
    earlier: list[Served] = Field(default=[], max_length=EARLIER)  # newest last
    floor: dict[str, int] = {}  # by product name: no older version serves, unless a rollback has ordered it
    command_id: str | None = None  # of the command that brought `serving` into service

    def with_new(self, bundle: Bundle, command_id: str | None = None) -> "Entry":
        """Another bundle serves; the one before can come back."""
        new = Served.of(bundle)
        earlier = [each for each in (*self.earlier, self.serving) if each.digest != new.digest][-EARLIER:]
        floor = {**self.floor, new.name: max(new.version, self.floor.get(new.name, 0))}
        return self.model_copy(update={"serving": new, "earlier": earlier, "floor": floor, "command_id": command_id})

    def rolled_back(self, bundle: Bundle, command_id: str | None = None) -> "Entry":
        """An earlier bundle serves again, and is the oldest that may from now on."""
        old = Served.of(bundle)
        digests = [each.digest for each in self.earlier]
        earlier = self.earlier[: digests.index(old.digest)] if old.digest in digests else self.earlier
        floor = {**self.floor, old.name: old.version}
        return self.model_copy(update={"serving": old, "earlier": earlier, "floor": floor, "command_id": command_id})


class _File(_Part):
    format: int = FORMAT
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Record:
    """The record as it was read, or is to be written."""

    entries: Mapping[Key, Entry] = field(default_factory=dict)

    def get(self, key: Key) -> Entry | None:
        return self.entries.get(key)

    def having(self, changes: Mapping[Key, Entry]) -> "Record":
        return replace(self, entries={**self.entries, **changes})


def read_record(path: Path, *, set_aside: bool = True) -> tuple[Record, str | None]:
    """The record, and a sentence where there is one that can't be read; none at all is an empty one.

    set_aside: one that can't be read gets another name, so that it is complained of once.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Record(), None
    except OSError as error:
        return Record(), f"{path}, the record of the bundles in service, can't be read ({error.strerror})."
    try:
        return _parse(data), None
    except (ValueError, RecursionError):
        log.debug("Reading %s", path, exc_info=True)
    aside, where = path.with_name(f"{path.name}.unreadable"), "Delete it."
    if set_aside:
        with suppress(OSError):
            path.replace(aside)
            where = f"It is {aside} now."
    return Record(), f"{path}, the record of the bundles in service, is damaged. {where}"


def write_record(path: Path, record: Record) -> None:
    """Returns once it is durable. RecordError where it can't be: then the old one is untouched."""
    body = _File(entries={name_of(key): entry for key, entry in record.entries.items()}).model_dump(mode="json")
    data = json.dumps({**body, "sha256": _digest(body)}, indent=1).encode()
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RecordError(
            f"{path}, the record of the bundles in service, can't be written ({error.strerror}). "
            "Make room, or set models.record to a folder that the agent's user may write."
        ) from error


def _parse(data: bytes) -> Record:
    """ValueError where it isn't what `write_record` wrote."""
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body):
        raise ValueError("its checksum is wrong")
    try:
        read = _File.model_validate(body)
    except ValidationError as error:
        raise ValueError(str(error)) from error
    if read.format != FORMAT:
        raise ValueError(f"its format is {read.format}")
    return Record({key_of(name): entry for name, entry in read.entries.items()})


def _digest(body: object) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
