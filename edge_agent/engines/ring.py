"""Frames and answers in memory that two processes share: a fixed number of slots, made once.

The memory is a file without a name, so nothing is left behind when both processes are killed.
"""

import mmap
import os
import tempfile
from typing import NamedTuple

import numpy as np

from edge_agent.engines import EngineError, Scores

ALIGNMENT = 64  # bytes: a cache line, and what engines want of a tensor


class Slot(NamedTuple):
    """Room for one batch and its answer; the arrays are views of the shared memory."""

    images: np.ndarray  # uint8 [batch, height, width, 3]
    scores: Scores


class Ring:
    """The slots. One side makes the ring; the other opens it on the same file descriptor."""

    def __init__(self, fd: int, slots: int, batch: int, size: tuple[int, int]):
        self.fd, self.batch, self.size = fd, batch, size
        self.slots: list[Slot] = []
        height, width = size
        shapes = [(np.uint8, (batch, height, width, 3)), (np.float32, (batch,))]
        shapes += [(np.float32, (batch, height, width)), (np.float32, (batch,))]
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in shapes]
        room = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        total = slots * sum(room)
        try:
            if os.fstat(fd).st_size != total:
                os.ftruncate(fd, total)
            self._memory = mmap.mmap(fd, total)
        except OSError as error:
            raise EngineError(
                f"No {total} bytes of memory for {slots} frames of {width} x {height} pixels ({error.strerror}). "
                "Free memory on this device."
            ) from error
        at = 0
        for _ in range(slots):
            arrays = []
            for (dtype, shape), step in zip(shapes, room, strict=True):
                count = int(np.prod(shape))
                arrays.append(np.frombuffer(self._memory, dtype, count, at).reshape(shape))
                at += step
            self.slots.append(Slot(arrays[0], Scores(*arrays[1:])))

    @classmethod
    def make(cls, slots: int, batch: int, size: tuple[int, int]) -> "Ring":
        return cls(_nameless_file(), slots, batch, size)

    def close(self) -> None:
        """Give the memory back; it goes for good when the other side has closed it too."""
        self.slots.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            self._memory.close()
        except BufferError:  # somebody still holds a view: the memory goes with it
            return


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("faultline-ring")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
