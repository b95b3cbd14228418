"""The spool on disk: what `python -m train fit --data` reads, with a line of facts about each image.

    FOLDER/PRODUCT/CAMERA/good/RESULT_ID.png        sampled passes
    FOLDER/PRODUCT/CAMERA/bad/RESULT_ID.png         rejects
    FOLDER/PRODUCT/CAMERA/uncertain/RESULT_ID.png   scores around the threshold
    FOLDER/PRODUCT/CAMERA/frames.jsonl              a JSON line per image; a line without its image: that one made room

An image gets its name when it is whole and its line is on the disk, so whatever is seen is whole and has a line.
"""

import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from edge_agent.durable import sync_folder
from edge_agent.spool.choice import Kind
from edge_agent.spool.settings import Quota

INDEX = "frames.jsonl"
UNFINISHED = ".unfinished"  # suffix of what is still being written; hidden, and deleted at the next start
SPARE_LINES = 1000  # lines of images that are gone stay in the index up to so many more than there are images


class Place(NamedTuple):
    """Whose images lie together: what one detector is trained on."""

    product: str
    camera: str


@dataclass
class _Kept:
    """The images of one kind, oldest first."""

    files: "OrderedDict[Path, int]"  # -> bytes
    size_bytes: int = 0


class Store:
    """Owned by one thread. Raises OSError for what the disk won't do; then open a new one."""

    def __init__(self, folder: Path, quotas: Mapping[Kind, Quota]):
        """Make or open it: deletes what was left unfinished, and counts what is there."""
        self._folder, self._quotas = folder, quotas
        self._lines: dict[Path, int] = {}  # of each index
        self._kept: dict[Kind, _Kept] = {kind: _Kept(OrderedDict()) for kind in get_args(Kind)}
        self._number = 0  # of the last line written anywhere in the spool: its order, whatever the clock said
        folder.mkdir(parents=True, exist_ok=True)
        found = [image for index in sorted(folder.glob(f"*/*/{INDEX}")) for image in self._open(index)]
        for number, kind, path, size in sorted(found):
            self._number = max(self._number, number)
            self._count(kind, path, size)

    @property
    def files(self) -> int:
        return sum(len(kept.files) for kept in self._kept.values())

    @property
    def size_bytes(self) -> int:
        return sum(kept.size_bytes for kept in self._kept.values())

    def add(self, place: Place, kind: Kind, name: str, png: bytes, facts: Mapping[str, Any]) -> bool:
        """Keep one image; the oldest of its kind make room. False: it is there already, or larger than the quota.

        name: unique, such as a result id. facts: JSON values, for its line in the index.
        """
        quota, kept = self._quotas[kind], self._kept[kind]
        folder = self._folder / safe_name(place.product) / safe_name(place.camera)
        path = folder / kind / f"{safe_name(name, longest=200)}.png"
        if len(png) > quota.max_bytes or path in kept.files:
            return False
        while kept.files and (len(kept.files) >= quota.max_files or kept.size_bytes + len(png) > quota.max_bytes):
            oldest, size = kept.files.popitem(last=False)
            kept.size_bytes -= size
            oldest.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}{UNFINISHED}")
        try:
            _write(unfinished, png)
            self._note(folder / INDEX, {"number": self._number + 1, "file": f"{kind}/{path.name}", **facts})
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        self._number += 1
        self._count(kind, path, len(png))
        return True

    def _count(self, kind: Kind, path: Path, size: int) -> None:
        self._kept[kind].files[path] = size
        self._kept[kind].size_bytes += size

    def _open(self, index: Path) -> Iterator[tuple[int, Kind, Path, int]]:
        """The images of one place that have a line: number, kind, path, bytes. Without a line it is not ours."""
        lines, sound = _read(index)
        there = 0
        for kind in get_args(Kind):
            folder = index.parent / kind
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if entry.name.endswith(UNFINISHED):
                    Path(entry.path).unlink(missing_ok=True)
                elif (number := lines.get(entry.name, (None, ""))[0]) is not None:
                    there += 1
                    yield number, kind, Path(entry.path), entry.stat().st_size
        self._lines[index] = len(lines)
        if not sound or len(lines) > 2 * there + SPARE_LINES:
            self._shorten(index)

    def _note(self, index: Path, facts: Mapping[str, Any]) -> None:
        images = self.files
        if self._lines.get(index, 0) > 2 * images + SPARE_LINES:
            self._shorten(index)
        new = index not in self._lines
        with index.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(index.parent)
        self._lines[index] = self._lines.get(index, 0) + 1

    def _shorten(self, index: Path) -> None:
        """Write the index anew, with the lines of images that are there."""
        lines, _ = _read(index)
        there = {path.name for kind in get_args(Kind) for path in (index.parent / kind).glob("*.png")}
        remaining = [line for name, (_, line) in lines.items() if name in there]
        unfinished = index.with_name(f".{index.name}{UNFINISHED}")
        _write(unfinished, "".join(f"{line}\n" for line in remaining).encode())
        unfinished.replace(index)
        sync_folder(index.parent)
        self._lines[index] = len(remaining)


def safe_name(text: str, *, longest: int = 64) -> str:
    """A name of letters, digits, `.`, `_` and `-` that is no hidden file; another text never gives the same name."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text) and len(text) <= longest:
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[: longest - 17]
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(index: Path) -> tuple[dict[str, tuple[int, str]], bool]:
    """The lines by the name of their image, with their number; and whether all were whole (a power cut tears one)."""
    lines: dict[str, tuple[int, str]] = {}
    text = index.read_text(encoding="utf-8", errors="replace")
    sound = not text or text.endswith("\n")
    for line in text.splitlines():
        try:
            facts = json.loads(line)
            lines[Path(facts["file"]).name] = (int(facts["number"]), line)
        except (ValueError, KeyError, TypeError):
            sound = False
    return lines, sound
