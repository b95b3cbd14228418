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
import importlib.machinery
import json
import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

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
        self.trt = _tensorrt_module(self)

    def install(self, monkeypatch: pytest.MonkeyPatch, flavour: str = "tensorrt") -> "StandIn":
        """What `import tensorrt` and `import pycuda.driver` give from here on."""
        package = _module("pycuda")
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


def _module(name: str) -> Any:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    return module


def _driver_module(machine: StandIn) -> Any:
    """`pycuda.driver`."""
    module = _module("pycuda.driver")

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


def _tensorrt_module(machine: StandIn) -> Any:
    """`tensorrt`: parses with ONNX's own checker of operations, "builds" by keeping the model."""
    module = _module("tensorrt")
    module.__version__ = machine.tensorrt

    class ILogger:
        def log(self, severity: Any, msg: str) -> None:
            raise AssertionError("a subclass logs")

    class IProgressMonitor:
        pass

    def error(logger: Any, text: str) -> None:
        logger.log("Severity.ERROR", text)

    class Network:
        def __init__(self, flags: int) -> None:
            self.flags, self.model = flags, b""
            self.num_inputs, self.num_layers = 1, 0

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name="image", shape=(-1,))

    class Parser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._network, self._errors = network, []

        def parse(self, model: bytes) -> bool:
            import onnx

            self._network.model = bytes(model)
            known = onnx.defs.has
            for node in onnx.load_from_string(model).graph.node:
                if not known(node.op_type, node.domain):
                    self._errors.append(
                        SimpleNamespace(
                            desc=lambda: "Plugin not found, are the plugin name, version, and namespace correct?",
                            node_name=lambda node=node: node.name,
                            node_operator=lambda node=node: node.op_type,
                        )
                    )
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

    class Timing:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b" measured" if b" measured" not in self.data else self.data

    class Config:
        builder_optimization_level = 3
        progress_monitor: Any = None

        def __init__(self) -> None:
            self.flags, self.pools, self.profile, self.timing = {"TF32"}, {}, None, None

        def clear_flag(self, flag: str) -> None:
            self.flags.discard(flag)

        def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
            self.pools[pool] = pool_size

        def add_optimization_profile(self, profile: Any) -> int:
            self.profile = profile
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Timing:
            machine.seen_timing.append(bytes(serialized_timing_cache))
            return Timing(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: Timing, ignore_mismatch: bool) -> bool:
            self.timing = cache
            return True

        def get_timing_cache(self) -> Timing | None:
            return self.timing

    class Profile:
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self.shapes = [tuple(min), tuple(opt), tuple(max)]

    class Builder:
        def __init__(self, logger: Any) -> None:
            machine.rule(bool(machine.stack), "a builder without a context current")
            self._logger = logger

        def create_network(self, flags: int = 0) -> Network:
            machine.networks.append(flags)
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            machine.configs.append(config)
            config.progress_monitor.phase_start("Building engine", None, 2)
            for step in range(2):
                if not config.progress_monitor.step_complete("Building engine", step):
                    return None
            config.progress_monitor.phase_finish("Building engine")
            if machine.build_fails_with is not None:
                error(self._logger, machine.build_fails_with)
                return None
            head = {"tensorrt": machine.tensorrt, "sm": machine.sm, "shapes": config.profile.shapes}
            return json.dumps(head).encode() + b"\n" + network.model

    class Context:
        def __init__(self, session: Any, head: Any, logger: Any) -> None:
            self._session, self._head, self._logger = session, head, logger
            self._shape: tuple[int, ...] | None = None
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _, largest = self._head["shapes"]
            if not smallest[0] <= shape[0] <= largest[0] or list(shape[1:]) != smallest[1:]:
                error(self._logger, f"shape {shape} is outside the profile")
                return False
            self._shape = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            machine.content(memory, 1, "giving TensorRT")
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            outputs = [each.name for each in self._session.get_outputs()]
            missing = {"image", *outputs} - set(self._addresses)
            machine.rule(not missing, f"executing without the address of {sorted(missing)}")
            machine.rule(self._shape is not None, "executing without the shape of image")
            machine.rule(bool(machine.stack), "executing with no context current")
            if "execute" in machine.fail_next:
                text = machine.fail_next.pop("execute")
                if "illegal" in text:
                    machine.sticky = text
                error(self._logger, f"IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime ({text})")
                return False
            shape, addresses = self._shape, dict(self._addresses)

            def work() -> None:
                size = int(np.prod(shape))
                data = bytes(machine.content(addresses["image"], size, "executing on")[:size])
                images = np.frombuffer(data, np.uint8).reshape(shape)
                scores = dict(zip(outputs, self._session.run(outputs, {"image": images}), strict=True))
                machine.executions.append(shape[0])
                for name, values in machine.changes_scores(scores).items():
                    machine.content(addresses[name], values.nbytes, "writing to")[: values.nbytes] = values.tobytes()

            machine.driver.streams[stream_handle].add(work)
            return True

    class Engine:
        def __init__(self, head: Any, model: bytes, logger: Any) -> None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._head, self._logger = head, logger
            self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return self._tensors[index].name  # type: ignore[no-any-return]

        def get_tensor_mode(self, name: str) -> str:
            return "INPUT" if name == "image" else "OUTPUT"

        def get_tensor_dtype(self, name: str) -> str:
            found = next(each.type for each in self._tensors if each.name == name)
            return {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT"}.get(found, found)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            shape = next(each.shape for each in self._tensors if each.name == name)
            return tuple(n if isinstance(n, int) else -1 for n in shape)

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            return [tuple(shape) for shape in self._head["shapes"]]

        def create_execution_context(self) -> Context | None:
            if "create_execution_context" in machine.fail_next:
                error(self._logger, machine.fail_next.pop("create_execution_context"))
                return None
            return Context(self._session, self._head, self._logger)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            machine.rule(bool(machine.stack), "a runtime without a context current")
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            line, _, model = bytes(serialized_engine).partition(b"\n")
            head = json.loads(line)
            if (head["tensorrt"], tuple(head["sm"])) != (machine.tensorrt, machine.sm):
                error(
                    self._logger,
                    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not "
                    f"compatible with this version of TensorRT, expecting library version {machine.tensorrt} got "
                    f"{head['tensorrt']}, please rebuild.)",
                )
                return None
            return Engine(head, model, self._logger)

    module.ILogger, module.IProgressMonitor, module.Builder = ILogger, IProgressMonitor, Builder
    module.OnnxParser, module.Runtime = Parser, Runtime
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag, module.MemoryPoolType = SimpleNamespace(TF32="TF32"), SimpleNamespace(WORKSPACE="WORKSPACE")
    module.TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    module.DataType = SimpleNamespace(UINT8="UINT8", FLOAT="FLOAT")
    return module
