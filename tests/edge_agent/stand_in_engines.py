"""Engines and builders that stand in for real ones in a process of their own: right, wrong, slow, or deadly on demand.

They score the tiny bundle's parts in NumPy. What an image's first pixel says is done to the process that scores it.
"""

import ctypes
import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
from tiny_bundle import golden_arrays

from edge_agent.engines import EngineError, EngineLost, EngineNotBuilt, Scores

KILL, HANG, HANG_WITH_THE_LOCK, NAN, LOST, FAIL, SEGFAULT, CONSTANT, SLOW = range(201, 210)
ENGINE_FILE = "engine"  # in a candidate's cache: what kind of engine was built


def marked(images: np.ndarray, at: int, mark: int) -> np.ndarray:
    """The images, one of them with a mark."""
    images = images.copy()
    images[at, 0, 0] = mark
    return images


class NumpyEngine:
    """Right, but for what it is told to do."""

    name = "numpy"

    def __init__(self, factor: float = 1.0, seconds: float = 0.0):
        self._factor, self._seconds = factor, seconds

    def run(self, images: np.ndarray) -> Scores:
        mark = int(images[0, 0, 0, 0])
        if mark == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if mark == SEGFAULT:
            ctypes.string_at(0)
        if mark == HANG:
            time.sleep(600)
        if mark == HANG_WITH_THE_LOCK:
            ctypes.PyDLL(None).sleep(600)
        if mark == LOST:
            raise EngineLost("The GPU fell off the bus.")
        if mark == FAIL:
            raise EngineError("This one was too much.")
        time.sleep(1.0 if mark == SLOW else self._seconds)
        found = golden_arrays(images)
        scores = Scores(found["image_score"] * self._factor, found["anomaly_map"], found["raw_score"])
        if mark == NAN:
            scores.image_score[0] = np.nan
        if mark == CONSTANT:
            scores.anomaly_map[:] = 0.25
        return scores

    def close(self) -> None:
        pass


class SlottedEngine(NumpyEngine):
    """Three batches at a time; `told` is what was asked of it."""

    name, slots = "slotted", 3

    def __init__(self):
        super().__init__()
        self._begun, self._tickets, self.told = {}, itertools.count(), []

    def submit(self, images):
        assert len(self._begun) < self.slots
        ticket = next(self._tickets)
        self._begun[ticket] = images.copy()
        self.told.append(f"submit {ticket}")
        return ticket

    def collect(self, ticket):
        self.told.append(f"collect {ticket}")
        return self.run(self._begun.pop(ticket))


def open_stand_in(bundle, candidate):
    """onnxruntime: right, 4 ms. openvino: right, at once; in bfloat16 wrong. tensorrt: as it was built."""
    if candidate.kind == "tensorrt":
        path = Path(candidate.cache) / ENGINE_FILE
        if not path.exists():
            raise EngineNotBuilt("No engine file fits. Build it on this device.")
        built = path.read_text()
        return NumpyEngine(factor=1.5 if built == "wrong" else 1.0, seconds=0.02 if built == "slow" else 0.0)
    if candidate.kind == "openvino":
        return NumpyEngine(factor=1.5 if candidate.precision == "bfloat16" else 1.0)
    return NumpyEngine(seconds=0.004)


def open_slotted(bundle, candidate):
    return SlottedEngine()


def open_unless_gone(bundle, candidate):
    """openvino can't be opened while a file says so; everything else can."""
    if candidate.kind == "openvino" and (bundle.folder.parent / "gone").exists():
        raise EngineError("The device is gone.")
    return NumpyEngine()


def open_late_again(bundle, candidate):
    """As `open_stand_in`, but from its second process on onnxruntime opens some time after tensorrt was built."""
    opened = bundle.folder.parent / "opened"
    if candidate.kind == "onnxruntime":
        while opened.exists() and not (bundle.folder.parent / ENGINE_FILE).exists():
            time.sleep(0.05)
        time.sleep(3.0 if opened.exists() else 0.0)
        opened.touch()
    return open_stand_in(bundle, candidate)


def open_never(bundle, candidate):
    time.sleep(600)


def open_and_die(bundle, candidate):
    os.kill(os.getpid(), signal.SIGKILL)


def open_with_a_surprise(bundle, candidate):
    raise RuntimeError("odd")


def _write(candidate, what: str) -> None:
    (Path(candidate.cache) / ENGINE_FILE).write_text(what)


def build_good(bundle, candidate, on_progress):
    for percent in range(101):
        on_progress("trying tactics", percent / 100)
        time.sleep(0.002)
    _write(candidate, "good")


def build_wrong(bundle, candidate, on_progress):
    _write(candidate, "wrong")


def build_slow(bundle, candidate, on_progress):
    _write(candidate, "slow")


def build_refused(bundle, candidate, on_progress):
    raise EngineError("TensorRT knows no operator Frobnicate.")


def build_killed(bundle, candidate, on_progress):
    on_progress("trying tactics", 0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def build_out_of_memory(bundle, candidate, on_progress):
    np.ones(2**60, np.uint8)


def build_for_ever(bundle, candidate, on_progress):
    (Path(candidate.cache) / "builder").write_text(f"{os.getpid()} {os.nice(0)}")
    on_progress("trying tactics", 0.1)
    time.sleep(600)
