"""What a generator's run keeps beside its checkpoints, so that its folder is complete without the user's files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.defects import DefectSample
from train.data.samples import file_digest
from train.provenance import Value
from train.restore import RunError


@dataclass(frozen=True)
class Kept:
    """Networks that training does not change, and what else is made once and for all when a run is started."""

    # (config, normal samples, defective ones) -> it, of the user's files; the errors say which file is amiss
    make: Callable[[Any, Sequence[DefectSample], Sequence[DefectSample]], Any]
    # (it, config) -> file names in the run folder and what writes each
    files: Callable[[Any, Any], Mapping[str, Callable[[Path], None]]]
    # (run folder, config) -> it
    read: Callable[[Path, Any], Any]

    def write(self, kept: Any, config: Any, folder: Path) -> dict[str, Value]:
        """All files; returns what provenance.json says of them."""
        said: dict[str, Value] = {}
        for name, write in self.files(kept, config).items():
            write(folder / name)
            said[digest_key(name)] = file_digest(folder / name)
        return said

    def restore(self, folder: Path, config: Any, provenance: Mapping[str, Any]) -> Any:
        """RunError where a file is missing or no longer what the run was started with."""
        for key, digest in provenance.items():
            if not key.startswith(PREFIX):
                continue
            path = folder / key.removeprefix(PREFIX)
            if not path.is_file() or file_digest(path) != digest:
                raise RunError(f"{path} is missing or was changed after the run was started. Copy the whole folder.")
        return self.read(folder, config)


PREFIX = "sha256 of "


def digest_key(name: str) -> str:
    """In provenance.json."""
    return PREFIX + name
