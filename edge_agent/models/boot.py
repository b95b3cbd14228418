"""Which bundle serves at the start: the file's, or the one that a command has brought since."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.bundle import Bundle, BundleError
from edge_agent.engine_state import EventNote
from edge_agent.engines import EngineError
from edge_agent.models.judge import Judge, Key
from edge_agent.models.record import Entry, RecordError, Served, read_record, write_record

log = logging.getLogger(__name__)

Open = Callable[[Path], Bundle]
Appoint = Callable[[Bundle], Judge]  # on an engine that has passed its golden set; EngineError where none can


class Register:
    """The record, on disk and here. One thread changes it."""

    def __init__(self, path: Path, *, read_only: bool = False):
        self._path, self._read_only = path, read_only
        self.record, self.trouble = read_record(path, set_aside=not read_only)

    def get(self, key: Key) -> Entry | None:
        return self.record.get(key)

    def change(self, entries: dict[Key, Entry]) -> None:
        """Durable when this returns. RecordError where it can't be; then everything is as before."""
        record = self.record.having(entries)
        if record != self.record and not self._read_only:
            write_record(self._path, record)
        self.record = record


@dataclass(frozen=True)
class Started:
    """Who judges at the start, and what a person should know about that."""

    judge: Judge
    notes: tuple[EventNote, ...] = ()


@dataclass(frozen=True)
class _Option:
    folder: Path
    expected: Served | None  # None: the file's bundle, whatever it is


def start(
    key: Key, configured: Path, register: Register, open_it: Open, appoint: Appoint, *, allow_older: bool = False
) -> Started:
    """Open and prove the bundle that is to serve; where it can't, the one that served before.

    The file's bundle serves where it was edited since the last start. Otherwise the one that the record names does:
    the last that a command has brought. An edited file may name no older version than has served here.
    Raises BundleError or EngineError where none can serve, and BundleError where an edited file names none at all.
    """
    entry, notes, file = register.get(key), list[EventNote](), None
    if register.trouble:
        notes.append(("model_record_lost", "alarm", f"{register.trouble} The bundle of the agent's file serves."))
    try:
        file = open_it(configured)
    except BundleError:
        if entry is None or Path(entry.configured.folder) != configured.absolute():
            raise
    edited = entry is None or (file is not None and file.digest != entry.configured.digest)
    moved = entry is not None and file is not None and file.digest == entry.serving.digest  # perhaps
    options = [_Option(configured, None)] if edited or moved else []
    if entry is not None:
        options += [_Option(Path(each.folder), each) for each in (entry.serving, *reversed(entry.earlier))]
        if file is not None and edited and not allow_older and (text := refusal(file, entry)) is not None:
            notes.append(("model_refused", "alarm", text))
            log.error("%s", text)
            del options[0]
    options.append(_Option(configured, None))  # whatever else fails
    failures: list[BundleError | EngineError] = []
    tried: set[str] = set()
    for option in options:
        try:
            bundle = file if option.expected is None and file is not None else open_it(option.folder)
            if bundle.digest in tried:
                continue
            tried.add(bundle.digest)
            if option.expected is not None and bundle.digest != option.expected.digest:
                raise BundleError(f"{bundle.folder} is not the bundle that served: it was replaced since.")
            why = None if option.expected or entry is None or allow_older else refusal(bundle, entry)
            if why is not None:
                raise BundleError(why)
            judge = appoint(bundle)
        except (BundleError, EngineError) as error:
            failures.append(error)
            continue
        if failures:
            text = f"{failures[0]} {_named(bundle)} serves instead."
            notes.append(("model_rolled_back", "alarm", text))
            log.error("%s", text)
        _remember(register, key, entry, file, bundle, intended=not failures, notes=notes)
        return Started(judge, tuple(notes))
    raise failures[0]


def _remember(
    register: Register, key: Key, entry: Entry | None, file: Bundle | None, bundle: Bundle, *, intended: bool,
    notes: list[EventNote],
) -> None:  # fmt: skip
    """What serves now is what the record says; but a bundle that failed today may well serve at the next start."""
    if entry is None:
        served = Served.of(bundle)
        new = Entry(serving=served, configured=served, floor={served.name: served.version})
    elif intended and file is not None and bundle.digest == file.digest:
        new = entry if bundle.digest == entry.serving.digest else entry.with_new(bundle)
        served = Served.of(bundle)
        floor = {**new.floor, served.name: served.version}  # lower only where `allow_older` says so
        new = new.model_copy(update={"serving": served, "configured": served, "floor": floor})
    else:
        return
    try:
        register.change({key: new})
    except RecordError as error:
        log.error("%s", error)
        notes.append(("model_record_lost", "alarm", str(error)))


def refusal(bundle: Bundle, entry: Entry) -> str | None:
    """Why the file's bundle must not serve: a newer one of its product has; None where it may."""
    manifest = bundle.manifest
    if manifest.version >= entry.floor.get(manifest.name, 0) or bundle.digest == entry.serving.digest:
        return None
    return (
        f"{bundle.folder} is version {manifest.version} of {manifest.name}, but version {entry.floor[manifest.name]} "
        "has served here. It is refused; send the command rollback, or set models.allow_older in the agent's file."
    )


def _named(bundle: Bundle) -> str:
    return f"{bundle.manifest.name} version {bundle.manifest.version}"
