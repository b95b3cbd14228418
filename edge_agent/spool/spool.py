"""From the decision to the disk without holding up the line: a bounded hand-over to a thread that writes.

The camera's whole frame is needed when the verdict is known, so it is held from the camera to the decision: `hold` at
the one end, `offer` at the other, once for every frame held. All that is held, in the pipeline and before the disk,
stays below `memory_bytes`; a frame that finds no room is not kept, and counted if it should have been.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any, NamedTuple

import numpy as np

from edge_agent import clock
from edge_agent.messages import Result
from edge_agent.pictures import PictureError, encode_frame, encode_grey
from edge_agent.spool.choice import Judged, Kind, kind_of
from edge_agent.spool.settings import Quota, SpoolConfig
from edge_agent.spool.store import Place, Store

log = logging.getLogger(__name__)

QUEUED_FRAMES = 64  # before the disk; memory_bytes is reached sooner, but for the smallest frames
RETRY_S = 60.0  # after trouble with the disk
FAREWELL_S = 5.0  # for the frames that still wait when the agent ends
LAST_FRAME_S = 60.0  # and for OpenCV to let go of the one in hand: a thread cut off inside it aborts the process
GRACE_S = 1.0  # after which a writer that is still there is stuck, or compresses on a busy machine
NICENESS = 10  # of the writer: compressing a picture must not take the processor from the engine


class SpoolState(NamedTuple):
    """What health says of the spool."""

    files: int = 0
    size_bytes: int = 0
    dropped: int = 0  # frames that should have been kept and were not


@dataclass(frozen=True, eq=False)
class _Frame:
    place: Place
    kind: Kind
    name: str
    image: np.ndarray
    facts: dict[str, Any]


class _NoRoom(OSError):
    """The disk has less free than it must keep."""


class Spool:
    """`hold` and `offer` return at once, come from one thread each, and never raise. The rest is the writer's."""

    def __init__(
        self,
        config: SpoolConfig,
        on_trouble: Callable[[bool, str], None] = lambda broken, text: None,
        *,
        retry_s: float = RETRY_S,
    ):
        """Starts the writer. on_trouble: called by it with True and a sentence when it stops, with False when it is
        back; once each time.
        """
        assert config.folder is not None
        self._config, self._folder, self._on_trouble, self._retry_s = config, config.folder, on_trouble, retry_s
        self._lock, self._compressing = threading.Lock(), threading.Lock()
        self._held_bytes = self._dropped = 0
        self._allowances = {kind: _Allowance(config.per_minute) for kind in ("good", "bad", "uncertain")}
        self._queue: Queue[_Frame | None] = Queue(QUEUED_FRAMES)
        self._store: Store | None = None
        self._counted = (0, 0)  # files and bytes when the disk was last well
        self._trouble: str | None = None
        self._retry_at, self._leave_at = 0.0, float("inf")
        self._writer = threading.Thread(target=self._write_all, name="spool", daemon=True)
        self._writer.start()

    @property
    def state(self) -> SpoolState:
        return SpoolState(*self._counted, self._dropped)

    def hold(self, image: np.ndarray | None) -> np.ndarray | None:
        """The frame itself, where there is memory to hold it until `offer`."""
        if image is None:
            return None
        with self._lock:
            if self._held_bytes + image.nbytes > self._config.memory_bytes:
                return None
            self._held_bytes += image.nbytes
        return image

    def offer(self, result: Result, judged: Judged, held: np.ndarray | None) -> None:
        """Keep the frame if it is worth it, and let go of it in any case.

        judged: the result, or its view by the camera that took the frame. held: what `hold` gave for it, uint8
        [h, w, 3] RGB; None: there was no room.
        """
        config = self._config
        kind = kind_of(judged, result.result_id, pass_share=config.pass_share, band=config.band)
        if kind is None:
            self._let_go(held)
        elif held is None or not self._allowances[kind].take():
            self._drop(held)
        else:
            frame = _Frame(
                Place(judged.model.name, judged.camera), kind, result.result_id, held, _facts(result, judged)
            )
            try:
                self._queue.put_nowait(frame)
            except Full:
                self._drop(held)

    def close(self) -> None:
        """Gives the writer a moment for what waits; the rest is lost. Once more does nothing."""
        if self._leave_at < float("inf"):
            return
        self._leave_at = time.monotonic() + FAREWELL_S
        with contextlib.suppress(Full):
            self._queue.put(None, timeout=FAREWELL_S)
        self._writer.join(max(0.0, self._leave_at - time.monotonic()) + GRACE_S)
        self._compressing.acquire(timeout=LAST_FRAME_S)  # kept: it begins with no other

    def _let_go(self, held: np.ndarray | None) -> None:
        if held is not None:
            with self._lock:
                self._held_bytes -= held.nbytes

    def _drop(self, held: np.ndarray | None) -> None:
        self._let_go(held)
        with self._lock:
            self._dropped += 1

    def _write_all(self) -> None:
        """The writer."""
        with contextlib.suppress(OSError, AttributeError):  # where threads have no niceness of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._try(lambda store: True)  # counts what is there, for the first health message
        while (frame := self._queue.get()) is not None:
            if time.monotonic() > self._leave_at:
                self._drop(frame.image)
            elif self._try(lambda store, frame=frame: self._write(store, frame)):  # type: ignore[misc]
                self._let_go(frame.image)
            else:
                self._drop(frame.image)

    def _try(self, work: Callable[[Store], bool]) -> bool:
        """Do it, unless the disk was in trouble a moment ago. False: it was not done."""
        if self._trouble is not None and time.monotonic() < self._retry_at:
            return False
        try:
            store = self._store = self._store or Store(self._folder, self._quotas())
            done = work(store)
            self._counted = store.files, store.size_bytes
        except Exception as error:  # whatever it is: frames are the least that a line can lose
            self._stopped(error)
            return False
        self._resumed()
        return done

    def _write(self, store: Store, frame: _Frame) -> bool:
        if (free := shutil.disk_usage(self._folder).free) < self._config.min_free_bytes:
            raise _NoRoom(f"{free} bytes are free, and {self._config.min_free_bytes} (min_free_bytes) must be left")
        with self._compressing:
            png = _png(frame.image)
        return store.add(frame.place, frame.kind, frame.name, png, frame.facts)

    def _quotas(self) -> dict[Kind, Quota]:
        config = self._config
        return {"good": config.good, "bad": config.bad, "uncertain": config.uncertain}

    def _stopped(self, error: Exception) -> None:
        self._store = None  # what it counted may be wrong now
        self._retry_at = time.monotonic() + self._retry_s
        first, self._trouble = self._trouble is None, str(error)
        if first:
            known = isinstance(error, OSError | PictureError | MemoryError)
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            text = (
                f"The spool {self._folder} can't keep frames ({why if known else f'{type(error).__name__}: {why}'}). "
                "Verdicts go on without it. Make room, or give another spool.folder."
            )
            log.error("%s", text)
            log.debug("The spool", exc_info=error)
            self._on_trouble(True, text)

    def _resumed(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            text = f"The spool {self._folder} keeps frames again."
            log.info("%s", text)
            self._on_trouble(False, text)


class _Allowance:
    """So many a minute, and no more than a minute's worth at once."""

    def __init__(self, per_minute: int):
        self._most = self._left = float(per_minute)
        self._since = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._since) * self._most / 60.0)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _png(image: np.ndarray) -> bytes:
    """Without loss; a grey camera's three equal channels are written as one, which every reader gives back as three."""
    first = image[..., 0]
    if np.array_equal(first, image[..., 1]) and np.array_equal(first, image[..., 2]):
        return encode_grey(np.ascontiguousarray(first))
    return encode_frame(image)


def _facts(result: Result, judged: Judged) -> dict[str, Any]:
    """What a reviewer should know of the image, beside what it shows."""
    return {
        "result_id": result.result_id,
        "camera": judged.camera,
        "part": result.part,
        "ts": result.ts,
        "verdict": judged.verdict,
        "image_score": judged.image_score,
        "threshold": judged.threshold,
        "model": judged.model.model_dump(),
        "spooled": clock.utc().isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
