"""The parts of TensorRT's Python API and of PyCUDA that we use, typed, and how they are imported.

Neither ships types. A Protocol here bears the name of the class that it describes; a test holds each name and signature
to the installed TensorRT-RTX, whose API is TensorRT's.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsInt, cast

import numpy as np

from edge_agent.engines import EngineError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
OLDEST: dict[Flavour, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 0)}
JETSON = Path("/etc/nv_tegra_release")

Shape = tuple[int, ...]  # TensorRT's Dims, which tuples convert to
Buffer = bytes | memoryview
Enum = Any  # a member of one of TensorRT's enumerations


class ITensor(Protocol):
    name: str
    shape: Shape

    @property
    def dtype(self) -> Enum: ...


class ILayer(Protocol):
    name: str

    @property
    def type(self) -> Enum: ...


class INetworkDefinition(Protocol):
    @property
    def num_layers(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    def get_layer(self, index: int) -> ILayer: ...
    def get_input(self, index: int) -> ITensor: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def parse(self, model: Buffer) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IHostMemory(Protocol):
    """Bytes of TensorRT's own; it has the buffer protocol."""

    @property
    def nbytes(self) -> int: ...


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...


class IOptimizationProfile(Protocol):
    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None: ...


class IBuilderConfig(Protocol):
    builder_optimization_level: int
    progress_monitor: Any
    num_compute_capabilities: int  # TensorRT-RTX only

    def set_memory_pool_limit(self, pool: Enum, pool_size: int) -> None: ...
    def clear_flag(self, flag: Enum) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def set_compute_capability(self, compute_capability: Enum, index: int) -> bool: ...  # TensorRT-RTX only
    def create_timing_cache(self, serialized_timing_cache: Buffer) -> ITimingCache: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache: ...


class Builder(Protocol):
    def create_network(self, flags: int = 0) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class IExecutionContext(Protocol):
    def set_input_shape(self, name: str, shape: Shape) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Enum: ...
    def get_tensor_dtype(self, name: str) -> Enum: ...
    def get_tensor_shape(self, name: str) -> Shape: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]: ...
    def create_execution_context(self) -> IExecutionContext | None: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> ICudaEngine | None: ...


class TensorRT(Protocol):
    """The module itself: `tensorrt` or `tensorrt_rtx`."""

    __version__: str
    ILogger: Any  # to be subclassed, with log(severity, msg)
    IProgressMonitor: Any  # to be subclassed, with phase_start, step_complete, phase_finish
    NetworkDefinitionCreationFlag: Any  # STRONGLY_TYPED
    BuilderFlag: Any  # TF32
    MemoryPoolType: Any  # WORKSPACE
    TensorIOMode: Any  # INPUT
    DataType: Any  # UINT8, FLOAT
    ComputeCapability: Any  # CURRENT, SM86, ...; TensorRT-RTX only
    Builder: Any  # Builder(logger) -> Builder
    OnnxParser: Any  # OnnxParser(network, logger) -> OnnxParser
    Runtime: Any  # Runtime(logger) -> Runtime


class DeviceAllocation(SupportsInt, Protocol):
    """Memory of the GPU; int() is its address. It is freed once."""

    def free(self) -> None: ...


class PagelockedHostAllocation(Protocol):
    """Memory of the host that the GPU copies from and to by itself: the `.base` of `pagelocked_empty`'s arrays."""

    def free(self) -> None: ...


class Stream(Protocol):
    @property
    def handle(self) -> int: ...
    def synchronize(self) -> None: ...


class Context(Protocol):
    """Current in a thread from push to pop; `pop` is of the class, whatever is on top."""

    def push(self) -> None: ...
    @staticmethod
    def pop() -> None: ...
    def detach(self) -> None: ...


class Device(Protocol):
    def name(self) -> str: ...
    def compute_capability(self) -> tuple[int, int]: ...
    def retain_primary_context(self) -> Context: ...


class CudaDriver(Protocol):
    """The module `pycuda.driver`."""

    Error: type[Exception]
    Context: Any  # Context.pop()
    Device: Any  # Device(number) -> Device; Device.count() -> int
    Stream: Any  # Stream(flags=0) -> Stream

    def init(self, flags: int = 0) -> None: ...
    def get_driver_version(self) -> int: ...
    def mem_get_info(self) -> tuple[int, int]: ...
    def mem_alloc(self, bytes: int) -> DeviceAllocation: ...
    def pagelocked_empty(
        self, shape: Shape, dtype: type[np.generic], order: str = "C", mem_flags: int = 0
    ) -> np.ndarray: ...
    def memcpy_htod_async(self, dest: DeviceAllocation, src: np.ndarray, stream: Stream | None = None) -> None: ...
    def memcpy_dtoh_async(self, dest: np.ndarray, src: DeviceAllocation, stream: Stream | None = None) -> None: ...


def load(flavour: Flavour) -> TensorRT:
    """The module of a flavour; EngineError where it is missing, broken or too old, with what to install."""
    name = NAMES[flavour]
    try:
        module = importlib.import_module(flavour)
    except ModuleNotFoundError as error:
        raise EngineError(f"{name} is not installed ({error}). {_install(flavour)}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"{name} is installed but can't be loaded: {_brief(error)}. {_install(flavour)}") from error
    found = str(getattr(module, "__version__", "unknown"))
    if version_numbers(found)[:2] < OLDEST[flavour]:
        oldest = ".".join(map(str, OLDEST[flavour]))
        raise EngineError(f"{name} {found} is too old; {oldest} is the oldest that works. {_install(flavour)}")
    return cast(TensorRT, module)


def installed_flavour() -> Flavour:
    """TensorRT where it is, else TensorRT-RTX; EngineError where neither is."""
    for flavour in NAMES:
        if importlib.util.find_spec(flavour) is not None:
            return flavour
    raise EngineError(f"Neither TensorRT nor TensorRT-RTX is installed. {_install('tensorrt')}")


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 10.3.0.post1 is (10, 3, 0)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def load_driver() -> CudaDriver:
    """PyCUDA's driver module, initialised; EngineError where there is no PyCUDA, no driver or no GPU."""
    try:
        module = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"PyCUDA is not installed ({error}). It is built where it is installed, with the CUDA toolkit's nvcc on "
            "the PATH: pip install pycuda; docs/engines.md has every step, for a Jetson too."
        ) from error
    except (ImportError, OSError) as error:
        raise EngineError(
            f"PyCUDA can't be loaded: {_brief(error)}. Without NVIDIA's driver there is no CUDA here: install it, or "
            "choose engine.kind onnxruntime. If the CUDA version changed, build PyCUDA again (docs/engines.md)."
        ) from error
    driver = cast(CudaDriver, module)
    try:
        driver.init()
        count = int(driver.Device.count())
    except driver.Error as error:
        raise EngineError(
            f"CUDA can't be used here: {_brief(error)}. nvidia-smi (on a Jetson: tegrastats) says whether the GPU is "
            "seen; is the user in the groups video and render? Or choose engine.kind onnxruntime."
        ) from error
    if count == 0:
        raise EngineError("CUDA sees no GPU here. Check nvidia-smi, or choose engine.kind onnxruntime.")
    return driver


def _install(flavour: Flavour) -> str:
    if JETSON.exists() and flavour == "tensorrt":
        return (
            "On a Jetson it is JetPack's own: apt-get install python3-libnvinfer, and a virtual environment made with "
            "--system-site-packages (docs/engines.md)."
        )
    extra = "tensorrt" if flavour == "tensorrt" else "rtx"
    return f"On x86: pip install 'faultline[{extra}]'; docs/engines.md has every step. Or choose another engine."


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
