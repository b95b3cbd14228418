"""The engine in a process of its own: what kills it costs the parts in flight, never the agent.

Images and answers lie in a ring of shared memory. Over a pipe go only three numbers per batch, and two back.
"""

import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.bundle import Bundle, BundleError, open_bundle
from edge_agent.engines import (
    Engine,
    EngineDied,
    EngineError,
    EngineKind,
    EngineLost,
    EngineNotBuilt,
    Scores,
    Slotted,
    as_slotted,
    check_images,
    open_engine,
)
from edge_agent.engines.process import Process, function_of, name_of
from edge_agent.engines.ring import Ring

log = logging.getLogger(__name__)

SLOTS = 2  # one batch executes, the next is copied
START_TIMEOUT_S = 180.0  # CUDA's first start on a small device takes a minute
GOODBYE_S = 2.0
REQUEST, ANSWER = struct.Struct("<qii"), struct.Struct("<qi")  # ticket, slot, images;  ticket, how it went
CLOSE = REQUEST.pack(-1, 0, 0)
SCORED, FAILED, LOST = 0, 1, 2

# The graph's own precision, where the engine has no say in it.
GRAPH_PRECISION = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@dataclass(frozen=True)
class Candidate:
    """An engine that might serve, and how it is opened: all that another process needs to know."""

    kind: EngineKind
    precision: str | None = None  # openvino: float32 or bfloat16; None: the graph's own
    threads: int | None = None
    device: int = 0  # which GPU
    cache: str | None = None  # folder of compiled engine files

    def __str__(self) -> str:
        return f"{self.kind} ({self.precision})" if self.precision else self.kind


Opener = Callable[[Bundle, Candidate], Engine]  # a function of a module: the child finds it by its name


def open_candidate(bundle: Bundle, candidate: Candidate) -> Engine:
    """What a candidate names, in this process."""
    return open_engine(
        bundle,
        candidate.kind,
        threads=candidate.threads,
        cache=None if candidate.cache is None else Path(candidate.cache),
        device=candidate.device,
        precision=candidate.precision,
    )


class ChildEngine:
    """A Slotted engine whose work another process does. Not safe for two threads at once, but for `alive`.

    Once its process has died, or took longer than `timeout_s` for an answer and was killed, it stays dead: EngineDied.
    cancelled: where it becomes set while the engine starts, the start is given up.
    """

    def __init__(
        self,
        bundle: Bundle,
        candidate: Candidate,
        *,
        opener: Opener = open_candidate,
        slots: int = SLOTS,
        batch: int = 1,
        timeout_s: float = 10.0,
        start_timeout_s: float = START_TIMEOUT_S,
        cancelled: threading.Event | None = None,
    ):
        self.name: str = candidate.kind
        self.slots, self._timeout_s = slots, timeout_s
        self.size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
        self._ring = Ring.make(slots, batch, self.size)
        self._free = deque(range(slots))
        self._out: dict[int, tuple[int, int]] = {}  # ticket -> slot, images
        self._answers: dict[int, tuple[int, str]] = {}
        self._tickets = 0
        self._heard = 0.0  # when the last sign of life came
        self._death: str | None = None
        self._pipe, theirs = Pipe()
        try:
            self._process = Process(
                serve,
                {
                    "pipe": theirs.fileno(), "ring": self._ring.fd, "slots": slots, "batch": batch,
                    "bundle": str(bundle.folder.absolute()), "digest": bundle.digest,
                    "candidate": asdict(candidate), "opener": name_of(opener),
                },
                fds=(theirs.fileno(), self._ring.fd),
            )  # fmt: skip
        except OSError as error:
            self._pipe.close()
            self._ring.close()
            raise EngineError(f"The engine's process can't be started ({error.strerror}). Free memory here.") from error
        finally:
            theirs.close()
        try:
            hello = self._hello(start_timeout_s, cancelled or threading.Event())
        except BaseException:
            self._bury(0.0)
            raise
        self.name, self.precision = hello["name"], hello["precision"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._death is None and self._process.alive

    def how_it_ended(self) -> str:
        """A sentence, once it isn't `alive` any more; from any thread."""
        return self._death or f"The engine's process {self._process.ending}."

    def submit(self, images: np.ndarray) -> int:
        """Copy a batch into a free slot and begin; the ticket for `collect`."""
        self._check_alive()
        check_images(images, self.size)
        n = len(images)
        if n > self._ring.batch or not self._free:
            raise EngineError(
                f"{n} images for a slot of {self._ring.batch}, {len(self._free)} of {self.slots} slots free. "
                "Collect an answer before the next submit, or use run, which takes any number."
            )
        slot = self._free.popleft()
        self._ring.slots[slot].images[:n] = images
        self._tickets += 1
        if not self._out:
            self._heard = time.monotonic()
        try:
            self._pipe.send_bytes(REQUEST.pack(self._tickets, slot, n))
        except OSError:
            self._free.append(slot)
            self._die()
        self._out[self._tickets] = (slot, n)
        return self._tickets

    def collect(self, ticket: int) -> Scores:
        """Wait for the answer; the arrays are the caller's to keep. The slot is free again, however it went."""
        if ticket not in self._out:
            raise EngineError(f"Ticket {ticket} is not out. Collect each one that submit gave, once.")
        slot, n = self._out[ticket]
        try:
            while ticket not in self._answers:
                self._receive()
            status, text = self._answers.pop(ticket)
            if status == LOST:
                self._die(text)
            if status == FAILED:
                raise EngineError(text)
            return Scores(*(values[:n].copy() for values in self._ring.slots[slot].scores))
        finally:
            del self._out[ticket]
            self._free.append(slot)

    def run(self, images: np.ndarray) -> Scores:
        """Any number of images, through as many slots as there are."""
        self._check_alive()
        check_images(images, self.size)
        batches = deque(images[at : at + self._ring.batch] for at in range(0, len(images), self._ring.batch))
        tickets: deque[int] = deque()
        found: list[Scores] = []
        try:
            while batches or tickets:
                if batches and self._free:
                    tickets.append(self.submit(batches.popleft()))
                else:
                    found.append(self.collect(tickets.popleft()))
        except EngineError:
            self._forget(tickets)
            raise
        return found[0] if len(found) == 1 else Scores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def close(self) -> None:
        if self._death is None:
            with suppress(OSError):
                self._pipe.send_bytes(CLOSE)
            self._bury(GOODBYE_S)
            self._death = "The engine was closed. Open it again with open_engine."

    def kill(self) -> None:
        """At once, from any thread: who waits for an answer gets EngineDied."""
        if self._death is None and self._process.alive:
            self._process.kill()

    def _hello(self, timeout_s: float, cancelled: threading.Event) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        try:
            while not self._pipe.poll(0.05):
                if cancelled.is_set():
                    raise EngineError("The engine's start was given up: the agent stops.")
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"The engine's process did not open it within {timeout_s:g} s and was killed. Is the device "
                        "overloaded, or its driver stuck?"
                    )
            hello: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            ended = self._process.end(GOODBYE_S)
            raise EngineError(f"While it opened the engine, its process {ended}.") from None
        if "error" in hello:
            raise {"not_built": EngineNotBuilt}.get(hello["kind"], EngineError)(hello["error"])
        return hello

    def _receive(self) -> None:
        self._check_alive()
        try:
            if not self._pipe.poll(max(0.0, self._heard + self._timeout_s - time.monotonic())):
                self._die(f"The engine's process gave no answer within {self._timeout_s:g} s and was killed.")
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._die()
        self._heard = time.monotonic()
        ticket, status = ANSWER.unpack_from(answer)
        self._answers[ticket] = (status, answer[ANSWER.size :].decode(errors="replace"))

    def _forget(self, tickets: "deque[int]") -> None:
        """Wait for what is out and drop it, so that its slots are free."""
        while tickets:
            try:
                self.collect(tickets.popleft())
            except EngineError:
                continue

    def _check_alive(self) -> None:
        if self._death is not None:
            raise EngineDied(self._death)

    def _die(self, text: str | None = None) -> None:
        self._death = text  # first: who asks from another thread is not to take our own kill for the cause
        ended = self._bury(0.0 if text else GOODBYE_S)
        self._death = text or f"The engine's process {ended}."
        raise EngineDied(self._death)

    def _bury(self, wait_s: float) -> str:
        ended = self._process.end(wait_s)
        self._pipe.close()
        self._ring.close()
        return ended


def serve(
    pipe: int, ring: int, slots: int, batch: int, bundle: str, digest: str, candidate: dict[str, Any], opener: str
) -> None:
    """The child's whole life: open the engine, say hello, score until the pipe ends."""
    connection = Connection(pipe)
    try:
        opened = open_bundle(Path(bundle))
        if opened.digest != digest:
            raise BundleError(f"{bundle} is not the bundle any more that the agent opened. Start the agent again.")
        engine: Engine = function_of(opener)(opened, Candidate(**candidate))
        precision = getattr(engine, "precision", None) or GRAPH_PRECISION[opened.manifest.precision]
        hello = {"name": engine.name, "precision": precision}
        size = (opened.manifest.preprocessing.height, opened.manifest.preprocessing.width)
        places = Ring(ring, slots, batch, size)
    except Exception as error:
        kind = "not_built" if isinstance(error, EngineNotBuilt) else "failed"
        _send(connection, json.dumps({"error": _sentence(error), "kind": kind}).encode())
        return
    _send(connection, json.dumps(hello).encode())
    _score(connection, as_slotted(engine), places)
    engine.close()


def _score(connection: Connection, engine: Slotted, ring: Ring) -> None:
    """As many batches at a time as the engine has slots; an answer that is due is never held back for a next batch."""
    begun: deque[tuple[int, int, int, int]] = deque()  # ticket, slot, images, the engine's own ticket
    while True:
        try:
            if begun and (len(begun) >= engine.slots or not connection.poll(0)):
                ticket, slot, n, own = begun.popleft()
                scores = engine.collect(own)
                for place, found in zip(ring.slots[slot].scores, scores, strict=True):
                    place[:n] = found
                _send(connection, ANSWER.pack(ticket, SCORED))
                continue
            ticket, slot, n = REQUEST.unpack(connection.recv_bytes())
            if ticket < 0:
                return
            begun.append((ticket, slot, n, engine.submit(ring.slots[slot].images[:n])))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            lost = isinstance(error, EngineLost)
            _send(connection, ANSWER.pack(ticket, LOST if lost else FAILED) + _sentence(error).encode()[:4000])
            if lost:
                return


def _send(connection: Connection, message: bytes) -> None:
    try:
        connection.send_bytes(message)
    except OSError:
        return  # the parent has gone, and so do we


def _sentence(error: Exception) -> str:
    expected = isinstance(error, EngineError | BundleError)
    return str(error) if expected else f"The engine broke down: {type(error).__name__}: {error}."
