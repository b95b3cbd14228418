"""A row of an evidence table: measured once, kept as one JSON with what it was measured at."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.durable import write_text
from train.provenance import commit, versions


@dataclass(frozen=True)
class Row:
    kind: str
    of: str
    measure: Callable[[Any], dict[str, Any]]  # of the benchmark's settings

    @property
    def name(self) -> str:
        return f"{self.kind} {self.of}"


def keep(row: Row, bench: Any, path: Path) -> dict[str, Any]:
    """Measure a row and write its file."""
    started = time.monotonic()
    print(row.name, flush=True)
    found = row.measure(bench)
    minutes = round((time.monotonic() - started) / 60, 2)
    record = {"row": row.name, **found, "minutes": minutes, "measured_at": commit(), "versions": versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record
