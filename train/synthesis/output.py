"""The folder that a job writes: MVTec AD's layout, and beside it what else is known of each image.

    train/good/  test/good/                the images that were started from, at model size, each on its side
    test/<category>/000012.png             the image with a defect      (restored: train/good/000012.png)
    ground_truth/<category>/000012_mask.png    255 where it is new by more than the threshold
    soft_masks/<category>/000012.png       how much of each pixel is new, 255 for all of it
    regions/<category>/000012.png          255 where the defect was asked for
    sheets/<category>/000012.png           how it came about, stage after stage, where that is wished for
    provenance/<category>/000012.json      what made it; provenance/empty/000012.json where nothing was drawn
    synthesis.json                         the job
    split.json                             what the generator was trained on

An image is the last of its files to be written, and every file is whole or not there: whatever was killed, what is
seen is complete.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from train.config import ConfigError
from train.data.defect_split import SPLIT_FILE
from train.data.samples import GOOD, shown
from train.data.synthetic import JOB_FILE, PROVENANCE, REGIONS, SHEETS, SOFT_MASKS
from train.durable import write_file, write_text
from train.synthesis.errors import SynthesisError
from train.synthesis.sources import Source
from train.synthesis.task import Task

EMPTY = "empty"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED]


def png(pixels: np.ndarray) -> bytes:
    """Of uint8 [h, w, 3] RGB or [h, w]; the same bytes for the same pixels."""
    done, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, _PNG)
    assert done
    return data.tobytes()


def as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Finished:
    """Indices that need not be drawn again."""

    drawn: frozenset[int]
    empty: frozenset[int]


class SynthesisFolder:
    def __init__(self, root: Path, *, restored: bool):
        self.root = root
        self.restored = restored

    def begin(self, job: Mapping[str, Any], split: bytes | None) -> None:
        """Makes the folder, or proves that it is the same job's. ConfigError where it is not."""
        file = self.root / JOB_FILE
        if file.exists():
            self._same_job(file, job)
            return
        if self.root.exists() and (not self.root.is_dir() or any(_but_ours(self.root))):
            raise ConfigError(
                f"--out {shown(self.root)} holds something and no {JOB_FILE}. Name a new folder, so that nothing is "
                "mixed."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if split is not None:
            write_file(self.root / SPLIT_FILE, lambda file: file.write(split))
        write_text(file, as_json(job))

    def _same_job(self, file: Path, job: Mapping[str, Any]) -> None:
        try:
            begun = json.loads(file.read_text())
            assert isinstance(begun, dict)
        except (ValueError, AssertionError):
            raise ConfigError(f"{shown(file)} is damaged. Name a new folder with --out.") from None
        now, then = _flat(json.loads(as_json(job))), _flat(begun)
        for name in sorted(set(now) | set(then)):
            if now.get(name) != then.get(name):
                raise ConfigError(
                    f"--out {shown(self.root)} was begun with {name} {json.dumps(then.get(name))}, and now it is "
                    f"{json.dumps(now.get(name))}. Give the same words to go on, or name a new folder."
                )

    @contextmanager
    def held(self, shard: tuple[int, int]) -> Iterator[None]:
        """One process per shard. Given back when the process ends, however it ends."""
        number, of = shard
        path = self.root / f".shard-{number}-of-{of}.lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink == 0:  # another has just ended, and taken this very file away
                    raise BlockingIOError
            except BlockingIOError:
                raise SynthesisError(
                    f"Another process is writing part {number} of {of} of {shown(self.root)}. Wait for it, or end it."
                ) from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def finished(self, tasks: Iterable[Task]) -> Finished:
        """Of these; also takes away what a kill left of files that were not whole."""
        drawn, empty = set(), set()
        listings: dict[Path, dict[str, list[Path]]] = {}

        def there(folder: Path, stem: str) -> list[Path]:
            """What a folder holds of an image; half-written files have a dot before their names."""
            if folder not in listings:
                listings[folder] = {}
                for path in folder.iterdir() if folder.is_dir() else ():
                    of = path.name.lstrip(".").split(".")[0].split("_")[0]
                    listings[folder].setdefault(of, []).append(path)
            return listings[folder].get(stem, [])

        for task in tasks:
            image, nothing = self.image(task), self._nothing(task)
            if image in there(image.parent, task.stem):
                drawn.add(task.index)
            elif nothing in there(nothing.parent, task.stem):
                empty.add(task.index)
            else:
                for folder in {path.parent for path in (*self._files(task), self._sheet(task), nothing)}:
                    for path in there(folder, task.stem):
                        if path.name.startswith("."):
                            path.unlink(missing_ok=True)
        return Finished(frozenset(drawn), frozenset(empty))

    def image(self, task: Task) -> Path:
        folder = self.root / "train" / GOOD if self.restored else self.root / "test" / task.label
        return folder / f"{task.stem}.png"

    def _nothing(self, task: Task) -> Path:
        return self.root / PROVENANCE / EMPTY / f"{task.stem}.json"

    def _sheet(self, task: Task) -> Path:
        return self.root / SHEETS / task.label / f"{task.stem}.png"

    def _files(self, task: Task) -> tuple[Path, ...]:
        """In the order in which they are written."""
        mask = self.root / "ground_truth" / task.label / f"{task.stem}_mask.png"
        return (
            self.root / REGIONS / task.label / f"{task.stem}.png",
            self.root / SOFT_MASKS / task.label / f"{task.stem}.png",
            *(() if self.restored else (mask,)),
            self.root / PROVENANCE / task.label / f"{task.stem}.json",
            self.image(task),
        )

    def write(
        self,
        task: Task,
        image: np.ndarray,
        soft: np.ndarray,
        mask: np.ndarray,
        region: np.ndarray,
        about: str,
        sheet: np.ndarray | None = None,
    ) -> None:
        """All files of an image, the image last."""
        if sheet is not None:
            _write(self._sheet(task), png(sheet))
        masks = () if self.restored else (png(mask.astype(np.uint8) * 255),)
        contents = (png(region.astype(np.uint8) * 255), png(as_grey(soft)), *masks, about.encode(), png(image))
        for path, data in zip(self._files(task), contents, strict=True):
            _write(path, data)

    def write_empty(self, task: Task, about: str) -> None:
        _write(self._nothing(task), about.encode())

    def write_source(self, source: Source, number: int, pixels: np.ndarray) -> None:
        """The image that was started from, on its side; kept where it is there."""
        path = self.root / source.split / GOOD / f"background_{number:05d}.png"
        if not path.exists():
            _write(path, png(pixels))


def as_grey(soft: np.ndarray) -> np.ndarray:
    """A soft mask in [0, 1] as uint8."""
    levels: np.ndarray = np.clip(np.rint(soft * 255), 0, 255).astype(np.uint8)
    return levels


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda file: file.write(data))


def _but_ours(root: Path) -> Iterator[Path]:
    """What a job that was killed while it began doesn't explain."""
    ours = (f".{JOB_FILE}.", f".{SPLIT_FILE}.")
    return (path for path in root.iterdir() if path.name != SPLIT_FILE and not path.name.startswith(ours))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part in value for key, leaf in _flat(value[part], f"{name}.{part}".lstrip(".")).items()}


def say_full(error: OSError, root: Path, written: int, total: int) -> SynthesisError:
    """A disk that takes no more, as a sentence that says how to go on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why, remedy = ("the disk is full", "Make room") if full else (error.strerror or str(error), "Mend that")
    return SynthesisError(
        f"{shown(root)} can't be written: {why}. {written} of {total} images are there and whole; nothing is "
        f"half-written. {remedy}, then give the same command: it goes on."
    )
