"""Runs an engine file: pinned buffers, one stream per slot, copy -> execute -> copy back without waiting in between."""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, cast

import numpy as np

from edge_agent.engines import EngineError, EngineNotBuilt, Scores, check_images
from edge_agent.engines.tensorrt.api import (
    NAMES,
    CudaDriver,
    DeviceAllocation,
    Flavour,
    ICudaEngine,
    IExecutionContext,
    PagelockedHostAllocation,
    Runtime,
    Stream,
    TensorRT,
)
from edge_agent.engines.tensorrt.cuda import DeviceLost, current, explain, retain, sentences
from edge_agent.engines.tensorrt.log import Heard, make_logger

logger = logging.getLogger(__name__)
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: a slot waits for nothing that runs on CUDA's default stream
SLOTS = 2  # one batch is copied while the other executes


@dataclass
class _Slot:
    """What one batch on its way needs; all of it allocated once."""

    stream: Stream
    context: IExecutionContext
    host: dict[str, np.ndarray] = field(default_factory=dict)  # tensor -> pinned memory for the largest batch
    device: dict[str, DeviceAllocation] = field(default_factory=dict)  # tensor -> its memory on the GPU
    shaped: int = 0  # the batch that `context` is set to
    ticket: int | None = None  # of the batch under way
    batch: int = 0  # how many images it has


class TensorRTEngine:
    """An engine file on one GPU. Not safe for use by two threads at once, but by one after the other.

    plan: the engine file's content. size: (height, width) that the bundle promises.
    EngineNotBuilt where TensorRT doesn't take the plan, EngineError where it isn't the bundle's or memory is short.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        trt: TensorRT,
        driver: CudaDriver,
        flavour: Flavour,
        size: tuple[int, int],
        device: int = 0,
        slots: int = SLOTS,
    ):
        self.name: str = flavour
        self.size = size
        self.slots = slots
        self._heard = Heard()
        self._driver = driver
        self._tickets = itertools.count(1)
        self._slots: list[_Slot] = []
        self._lost: DeviceLost | None = None
        self._is_open = True
        self._engine: ICudaEngine | None = None
        self._runtime: Runtime | None = None
        self._context = retain(driver, device)
        try:
            with self._on_device("loading the engine"):
                self._logger = make_logger(trt, self._heard)
                self._runtime = trt.Runtime(self._logger)
                self._engine = self._runtime.deserialize_cuda_engine(plan) if self._runtime else None
                if self._engine is None:
                    self._refuse_plan(trt)
                self.batch_sizes = _check_tensors(self._engine, trt, size)  # smallest and largest batch
                for _ in range(slots):
                    self._add_slot(self._engine)
        except BaseException:
            self.close()
            raise

    def run(self, images: np.ndarray) -> Scores:
        """uint8 [n, height, width, 3] RGB to Scores; the arrays are the caller's to keep."""
        return self.collect(self.submit(images))

    def submit(self, images: np.ndarray) -> int:
        """Begin with a batch, without waiting for it: the ticket that `collect` takes."""
        self._check_usable()
        check_images(images, self.size)
        n, (smallest, largest) = len(images), self.batch_sizes
        if not smallest <= n <= largest:
            raise EngineError(
                f"The engine was built for batches of {smallest} to {largest}, and got {n} images. Build it for more: "
                f"python -m edge_agent build BUNDLE --batch {n}."
            )
        slot = next((slot for slot in self._slots if slot.ticket is None), None)
        if slot is None:
            raise EngineError(
                f"All {self.slots} slots of the engine are taken. Collect a ticket before the next batch."
            )
        with self._on_device("scoring a batch"):
            try:
                self._enqueue(slot, images)
            except BaseException:
                self._settle(slot)
                raise
        slot.ticket, slot.batch = next(self._tickets), n
        return slot.ticket

    def collect(self, ticket: int) -> Scores:
        """Wait for a ticket's answer and free its slot. EngineError where that batch failed."""
        self._check_usable()
        slot = next((slot for slot in self._slots if slot.ticket == ticket), None)
        if slot is None:
            raise EngineError(f"Ticket {ticket} is not under way: each is collected once, of the engine that gave it.")
        slot.ticket = None
        with self._on_device("scoring a batch"):
            slot.stream.synchronize()
        return Scores(*(slot.host[name][: slot.batch].copy() for name in Scores._fields))

    def close(self) -> None:
        """Free all memory on the device, and pinned memory. Again: nothing happens."""
        if not self._is_open:
            return
        self._is_open = False
        slots, self._slots = self._slots, []
        try:
            if self._lost is None:  # else CUDA refuses every call; its memory goes with the process
                with sentences(self._driver, "closing the engine"):
                    self._context.push()
                    for slot in slots:
                        _free(slot)
        except EngineError as error:
            self._lost = error if isinstance(error, DeviceLost) else None
            logger.warning("%s", error)
        finally:
            self._engine = self._runtime = None
            if self._lost is None:
                self._context.detach()  # and no longer current

    def _enqueue(self, slot: _Slot, images: np.ndarray) -> None:
        n = len(images)
        np.copyto(slot.host["image"][:n], images)
        if slot.shaped != n:
            slot.shaped = 0
            if not slot.context.set_input_shape("image", (n, *self.size, 3)):
                raise explain(self._heard.errors(), f"preparing a batch of {n}")
            slot.shaped = n
        self._driver.memcpy_htod_async(slot.device["image"], slot.host["image"][:n], slot.stream)
        if not slot.context.execute_async_v3(slot.stream.handle):
            raise explain(self._heard.errors(), "scoring a batch")
        for name in Scores._fields:
            self._driver.memcpy_dtoh_async(slot.host[name][:n], slot.device[name], slot.stream)

    def _settle(self, slot: _Slot) -> None:
        """After a failure half way: nothing may still copy from or to the slot's buffers. It can then be used again."""
        try:
            slot.stream.synchronize()
        except self._driver.Error as error:
            raise explain(str(error), "scoring a batch") from error

    def _add_slot(self, engine: ICudaEngine) -> None:
        context = engine.create_execution_context()
        if context is None:
            raise explain(self._heard.errors(), "opening the engine")
        slot = _Slot(self._driver.Stream(NON_BLOCKING), context)
        self._slots.append(slot)  # from here on `close` frees what it has
        largest, (height, width) = self.batch_sizes[1], self.size
        for name, shape, dtype in (
            ("image", (height, width, 3), np.uint8),
            ("image_score", (), np.float32),
            ("anomaly_map", (height, width), np.float32),
            ("raw_score", (), np.float32),
        ):
            slot.host[name] = self._driver.pagelocked_empty((largest, *shape), dtype)
            slot.device[name] = self._driver.mem_alloc(slot.host[name].nbytes)
            if not context.set_tensor_address(name, int(slot.device[name])):
                raise explain(self._heard.errors(), "opening the engine")

    def _refuse_plan(self, trt: TensorRT) -> NoReturn:
        said = self._heard.errors()
        error = explain(said, "loading the engine")
        if type(error) is not EngineError:
            raise error
        raise EngineNotBuilt(
            f"{NAMES[cast(Flavour, self.name)]} {trt.__version__} does not take the engine file: {said or 'no reason'}"
        )

    @contextmanager
    def _on_device(self, doing: str) -> Iterator[None]:
        """The context current, CUDA's errors as sentences; a sticky one closes the engine for good."""
        try:
            with sentences(self._driver, doing), current(self._driver, self._context):
                yield
        except DeviceLost as error:
            self._lost = error
            raise

    def _check_usable(self) -> None:
        if self._lost is not None:
            raise DeviceLost(str(self._lost))
        if not self._is_open:
            raise EngineError("The engine was closed. Open it again with open_engine.")


def _free(slot: _Slot) -> None:
    """Wait for what is under way, then free all, now and in this context, whoever still holds the slot."""
    slot.stream.synchronize()
    for memory in slot.device.values():
        memory.free()
    for pinned in slot.host.values():
        cast(PagelockedHostAllocation, pinned.base).free()
    vars(slot).clear()  # streams and execution contexts have no `free`: they end with their last reference


def _check_tensors(engine: ICudaEngine, trt: TensorRT, size: tuple[int, int]) -> tuple[int, int]:
    """(smallest, largest) batch; EngineError unless inputs and outputs are the bundle's."""
    height, width = size
    right = {
        "image": (True, trt.DataType.UINT8, (height, width, 3)),
        "image_score": (False, trt.DataType.FLOAT, ()),
        "anomaly_map": (False, trt.DataType.FLOAT, (height, width)),
        "raw_score": (False, trt.DataType.FLOAT, ()),
    }
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[name] = (is_input, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:])
    if found != right:
        raise EngineError(
            f"The engine's tensors (input, type, shape of one) are {found}; the bundle's are {right}. Build it again "
            "with the bundle that is to run."
        )
    smallest, _, largest = engine.get_tensor_profile_shape("image", 0)
    return int(smallest[0]), int(largest[0])
