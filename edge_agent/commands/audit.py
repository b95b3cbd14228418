"""One line per command in a local file that stays small. The durable copy is the `command` event in the outbox."""

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MAX_BYTES = 1024**2
KEPT_FILES = 5


class AuditLog:
    """JSON lines; a full file becomes FILE.1, that one FILE.2, and so on up to FILE.5. Trouble is logged, once."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES):
        self._path, self._max_bytes = path, max_bytes
        self._troubled = False

    def write(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._rotate()
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), "wb") as file:
                file.write(line)
            self._troubled = False
        except OSError as error:
            if not self._troubled:
                log.error(
                    "The audit log %s can't be written (%s). Commands go on; their events are in the outbox.",
                    self._path,
                    error.strerror,
                )
            self._troubled = True

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, 0, -1):
            if (older := self._numbered(number)).exists():
                older.replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
