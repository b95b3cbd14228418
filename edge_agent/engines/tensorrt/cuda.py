"""CUDA as the runtime needs it: which GPU this is, its context current in this thread, its errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from edge_agent.engines import EngineError, EngineLost
from edge_agent.engines.tensorrt.api import Context, CudaDriver, Device

# What cuda.h says of these: "any further CUDA work will return the same error. To continue using CUDA, the process must
# be terminated and relaunched." ECC and NVLink errors and a destroyed context are no better. Texts: cuGetErrorString.
STICKY = (
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "device-side assert triggered",
    "tensor memory not completely freed",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "context is destroyed",
)
OUT_OF_MEMORY = ("out of memory", "outofmemory", "out_of_memory", "insufficient memory", "memoryallocation")


class DeviceLost(EngineLost):
    """CUDA is lost to this process: every further call fails alike. Only a new process can use the GPU again."""


class OutOfMemory(EngineError):
    """Not enough memory on the device (on a Jetson: of the whole board)."""


@dataclass(frozen=True)
class Gpu:
    """What an engine file is bound to, as far as CUDA says it."""

    number: int
    name: str  # "Orin", "NVIDIA GeForce RTX 4070"
    sm: str  # compute capability, "8.7"
    cuda: str  # of the driver, "12.6"


def describe(driver: CudaDriver, number: int = 0) -> Gpu:
    """The GPU of that number; EngineError where there is none."""
    with sentences(driver, "asking for the GPU"):
        count = int(driver.Device.count())
        if not 0 <= number < count:
            raise EngineError(
                f"device is {number}, but CUDA counts {count} GPU(s) here, from 0. Set it to one of them."
            )
        device = cast(Device, driver.Device(number))
        major, minor = device.compute_capability()
        version = driver.get_driver_version()
        return Gpu(number, device.name(), f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")


def retain(driver: CudaDriver, number: int) -> Context:
    """The primary context, which TensorRT's own CUDA calls use as well; not yet current. To be detached."""
    with sentences(driver, "opening the GPU"):
        return cast(Context, driver.Device(number).retain_primary_context())


@contextmanager
def current(driver: CudaDriver, context: Context) -> Iterator[None]:
    """`context` current in this thread; contexts belong to threads, and engines are used from others than made them."""
    context.push()
    try:
        yield
    finally:
        driver.Context.pop()


@contextmanager
def sentences(driver: CudaDriver, doing: str) -> Iterator[None]:
    """CUDA's errors inside as an EngineError, a sticky one as DeviceLost."""
    try:
        yield
    except driver.Error as error:
        raise explain(str(error), doing) from error


def explain(text: str, doing: str) -> EngineError:
    """The error for what CUDA or TensorRT said. doing: "copying the images"."""
    said = " ".join(text.split()).rstrip(".")[:400] or "it gave no reason"
    low = said.lower()
    if any(sticky.lower() in low for sticky in STICKY):
        return DeviceLost(
            f"The GPU failed while {doing}: {said}. CUDA is lost to this process; only a new process can use the GPU "
            "again. If it comes back, look at dmesg for Xid errors, power and temperature."
        )
    if any(word in low for word in OUT_OF_MEMORY):
        return OutOfMemory(
            f"The GPU has too little memory for {doing}: {said}. End what else uses it (nvidia-smi, on a Jetson "
            "tegrastats), or take smaller batches or an fp16 bundle."
        )
    return EngineError(f"The GPU failed while {doing}: {said}.")
