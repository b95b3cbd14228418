"""A stand-in for CUDA's driver (as PyCUDA shows it) and for TensorRT. It runs nothing on a GPU and measures none.

It enforces their rules instead: an asynchronous copy or execution happens no earlier than its stream is synchronised;
memory is freed once and not used afterwards; asynchronous copies take pinned memory only; a pinned buffer is not
touched while its stream may still use it; a call needs a context that is current in its thread; an execution needs the
shape and the address of every tensor. What breaks a rule raises RuleBroken and is kept in `broken`, whatever the
product makes of it. "Executing" an engine runs the ONNX model in ONNX Runtime, so that real scores come out.

The rules and texts are those of PyCUDA 2026.1 (src/cpp/cuda.hpp, src/wrapper/wrap_cudadrv.cpp), cuda.h and TensorRT's
Python documentation.
"""

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorrt_stand_in import empty_module, tensorrt_module

POISON = 0xAB


class RuleBroken(AssertionError):
    """A rule of CUDA or TensorRT that the product's code broke."""


class StandIn:
    """One imaginary machine: its GPU, its memory, its two modules. Plans: a line of JSON, then the ONNX model."""

    def __init__(
        self,
        *,
        name: str = "Orin",
        sm: tuple[int, int] = (8, 7),
        cuda: int = 12060,
        tensorrt: str = "10.3.0",
        gpus: int = 1,
    ):
        self.name, self.sm, self.cuda, self.tensorrt, self.gpus = name, sm, cuda, tensorrt, gpus
        self.broken: list[str] = []
        self.memory: dict[int, bytearray] = {}  # address -> content, of what is allocated on the GPU
        self.freed: set[int] = set()
        self.pinned: dict[int, "_Pinned"] = {}  # address -> what is pinned and not freed
        self.retained = 0  # references to the primary context
        self.streams = 0  # not destroyed yet
        self.allocations = 0  # of the GPU and of pinned memory, ever
        self.sticky: str | None = None  # once CUDA has failed for good, the text of its every answer
        self.fail_next: dict[str, str] = {}  # call -> the text it fails with, once; "execute", "synchronize", ...
        self.changes_scores: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda scores: scores
        self.build_fails_with: str | None = None  # what TensorRT logs before it gives no plan
        self.seen_timing: list[bytes] = []  # timing caches that builds were given
        self.networks: list[int] = []  # flags that networks were created with
        self.configs: list[Any] = []  # of each build: flags, pools, profile
        self.executions: list[int] = []  # the batch of each
        self._next_address = 0x7F00_0000_0000
        self._stacks = threading.local()
        self.driver = _driver_module(self)
        self.trt = tensorrt_module(self)

    def install(self, monkeypatch: pytest.MonkeyPatch, flavour: str = "tensorrt") -> "StandIn":
        """What `import tensorrt` and `import pycuda.driver` give from here on."""
        package = empty_module("pycuda")
        package.driver = self.driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, flavour, self.trt)
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.driver)
        return self

    @property
    def stack(self) -> list[Any]:
        """Contexts of this thread, the current one last."""
        if not hasattr(self._stacks, "contexts"):
            self._stacks.contexts = []
        return self._stacks.contexts

    def rule(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken.append(text)
            raise RuleBroken(text)

    def call(self, name: str, *, needs_context: bool = True) -> None:
        """What every call does first: fail as it was told to, for good where the error is sticky."""
        if self.sticky is not None:
            raise self.driver.LogicError(f"{name} failed: {self.sticky}")
        if name in self.fail_next:
            text = self.fail_next.pop(name)
            if "illegal" in text or "unspecified" in text:
                self.sticky = text
            kind = self.driver.MemoryError if "out of memory" in text else self.driver.LogicError
            raise kind(f"{name} failed: {text}")
        if needs_context:
            self.rule(bool(self.stack), f"{name} with no context current in thread {threading.current_thread().name}")

    def address(self, size: int) -> int:
        self.allocations += 1
        self._next_address += (size + 511) // 512 * 512 + 512
        return self._next_address - size

    def content(self, address: int, size: int, doing: str) -> bytearray:
        self.rule(address not in self.freed, f"{doing} memory that was freed")
        self.rule(address in self.memory, f"{doing} an address that was never allocated")
        self.rule(len(self.memory[address]) >= size, f"{doing} {size} bytes of {len(self.memory[address])}")
        return self.memory[address]

    def leaks(self) -> list[str]:
        """What is still held; nothing once all engines are closed."""
        held = {
            "device memory": len(self.memory),
            "pinned memory": len(self.pinned),
            "streams": self.streams,
            "contexts": self.retained,
        }
        return [f"{n} of {what}" for what, n in {**held, "contexts current": len(self.stack)}.items() if n]


class _Pinned(bytearray):
    """PagelockedHostAllocation: the memory below an array of pagelocked_empty, in use by the streams in `pending`."""

    machine: StandIn
    pending: set[Any]

    def free(self) -> None:
        address = _address(self)
        if address not in self.machine.pinned:
            self.machine.broken.append("pinned memory freed twice")
            raise self.machine.driver.LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self.machine.call("cuMemFreeHost")
        self.machine.rule(not self.pending, "pinned memory freed while a copy from or to it is under way")
        del self.machine.pinned[address]

    def touch(self, doing: str) -> None:
        self.machine.rule(_address(self) in self.machine.pinned, f"{doing} pinned memory that was freed")
        self.machine.rule(not self.pending, f"{doing} a pinned buffer before its stream was synchronised")


class _PinnedArray(np.ndarray):
    """What pagelocked_empty gives: reading or writing it is noticed, as far as NumPy lets a subclass notice."""

    below: _Pinned | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.below = getattr(source, "below", None)

    @property
    def base(self) -> Any:  # type: ignore[override]
        return self.below

    def copy(self, order: Any = "C") -> np.ndarray:
        if self.below is not None:
            self.below.touch("reading")
        return np.array(self.view(np.ndarray), order=order)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.below is not None:
            self.below.touch("writing")
        super().__setitem__(key, value)

    def __array_function__(self, function: Any, types: Any, arguments: Any, named: Any) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, _PinnedArray):
                if value.below is not None:
                    value.below.touch("using")
                return value.view(np.ndarray)
            return value

        return function(*map(plain, arguments), **{name: plain(value) for name, value in named.items()})

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        return self.__array_function__(getattr(ufunc, method), (), inputs, named)


def _address(buffer: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _driver_module(machine: StandIn) -> Any:
    """`pycuda.driver`."""
    module = empty_module("pycuda.driver")

    class Error(Exception):
        pass

    for name in ("MemoryError", "LogicError", "LaunchError", "RuntimeError"):
        setattr(module, name, type(name, (Error,), {}))

    class Context:
        def __init__(self) -> None:
            self.is_valid = True

        def push(self) -> None:
            machine.call("cuCtxPushCurrent", needs_context=False)
            machine.rule(self.is_valid, "a context used after it was detached")
            machine.stack.append(self)

        @staticmethod
        def pop() -> None:
            machine.rule(bool(machine.stack), "popping a context where none is current")
            machine.stack.pop()

        def detach(self) -> None:
            machine.rule(self.is_valid, "a context detached twice")
            self.is_valid = False
            machine.retained -= 1
            if machine.stack and machine.stack[-1] is self:  # PyCUDA: a current context is popped as it is detached
                machine.stack.pop()

    class Device:
        def __init__(self, number: int) -> None:
            machine.rule(0 <= number < machine.gpus, f"GPU {number} of {machine.gpus}")

        @staticmethod
        def count() -> int:
            machine.call("cuDeviceGetCount", needs_context=False)
            return machine.gpus

        def name(self) -> str:
            return machine.name

        def compute_capability(self) -> tuple[int, int]:
            return machine.sm

        def retain_primary_context(self) -> Context:
            machine.call("cuDevicePrimaryCtxRetain", needs_context=False)
            machine.retained += 1
            return Context()

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            machine.call("cuMemAlloc")
            self.address = machine.address(size)
            machine.memory[self.address] = bytearray([POISON]) * size

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            if self.address in machine.freed:
                machine.broken.append("device memory freed twice")
                raise module.LogicError("device_allocation::free failed: invalid resource handle")
            machine.call("cuMemFree")
            machine.freed.add(self.address)
            del machine.memory[self.address]

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            machine.call("cuStreamCreate")
            self.queue: list[Callable[[], None]] = []
            self.uses: list[_Pinned] = []
            machine.streams += 1

        def __del__(self) -> None:  # PyCUDA destroys a stream with its last reference, if its context is alive
            if machine.stack and machine.stack[-1].is_valid:
                machine.streams -= 1

        @property
        def handle(self) -> int:
            return id(self)

        def add(self, work: Callable[[], None], pinned: _Pinned | None = None) -> None:
            self.queue.append(work)
            if pinned is not None:
                pinned.pending.add(self.handle)
                self.uses.append(pinned)

        def synchronize(self) -> None:
            machine.call("cuStreamSynchronize")
            queue, self.queue = self.queue, []
            try:
                for work in queue:
                    work()
            finally:
                for pinned in self.uses:
                    pinned.pending.discard(self.handle)
                self.uses.clear()

    streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()

    def make_stream(flags: int = 0) -> Stream:
        stream = Stream(flags)
        streams[stream.handle] = stream
        return stream

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        machine.call("cuMemHostAlloc")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        below = _Pinned([POISON] * size)
        below.machine, below.pending = machine, set()
        machine.allocations += 1
        machine.pinned[_address(below)] = below
        array = np.frombuffer(below, dtype).reshape(shape).view(_PinnedArray)
        array.below = below
        return array

    def pinned_below(array: np.ndarray, call: str) -> _Pinned:
        machine.rule(isinstance(array, _PinnedArray), f"{call} with memory that is not pinned")
        machine.rule(array.flags.c_contiguous, f"{call} with an array that lies scattered")
        below = array.below  # type: ignore[attr-defined]
        machine.rule(_address(below) in machine.pinned, f"{call} with pinned memory that was freed")
        return below  # type: ignore[no-any-return]

    def memcpy_htod_async(dest: Any, src: np.ndarray, stream: Any = None) -> None:
        machine.call("cuMemcpyHtoDAsync")
        below, plain = pinned_below(src, "cuMemcpyHtoDAsync"), src.view(np.ndarray)
        machine.content(int(dest), src.nbytes, "copying to")

        def work() -> None:
            machine.content(int(dest), src.nbytes, "copying to")[: src.nbytes] = plain.tobytes()

        stream.add(work, below)

    def memcpy_dtoh_async(dest: np.ndarray, src: Any, stream: Any = None) -> None:
        machine.call("cuMemcpyDtoHAsync")
        below, plain = pinned_below(dest, "cuMemcpyDtoHAsync"), dest.view(np.ndarray)
        machine.content(int(src), dest.nbytes, "copying from")
        plain.view(np.uint8).fill(POISON) if plain.ndim else None

        def work() -> None:
            data = machine.content(int(src), dest.nbytes, "copying from")[: dest.nbytes]
            np.copyto(plain, np.frombuffer(bytes(data), plain.dtype).reshape(plain.shape))

        stream.add(work, below)

    module.Error, module.Context, module.Device, module.Stream = Error, Context, Device, make_stream
    module.streams, module.mem_alloc, module.pagelocked_empty = streams, DeviceAllocation, pagelocked_empty
    module.memcpy_htod_async, module.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    module.init = lambda flags=0: machine.call("cuInit", needs_context=False)
    module.get_driver_version = lambda: machine.cuda
    module.mem_get_info = lambda: (2**33, 2**34)
    return module
