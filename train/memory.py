"""The memory that a training takes: what is known before it starts, and what to say when it does not suffice."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax

GIGABYTE = 1e9


class OutOfMemory(RuntimeError):
    """The device's memory does not suffice; the text says what to lower."""


class MemoryEstimate(NamedTuple):
    """Bytes, by what they hold."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def sentence(self) -> str:
        shares = ", ".join(f"{name} {size / GIGABYTE:.2g}" for name, size in self.parts.items())
        return f"Training takes about {self.total / GIGABYTE:.3g} GB of the device's memory: {shares}."


def device_memory() -> int | None:
    """Bytes that the first device can give; None where it does not say, as a CPU does not."""
    statistics = jax.devices()[0].memory_stats()
    return int(statistics["bytes_limit"]) if statistics and "bytes_limit" in statistics else None


def must_suffice(estimate: MemoryEstimate, memory: int | None, lowered_by: str) -> None:
    """OutOfMemory where the device is known to have less than is needed."""
    if memory is not None and estimate.total > memory:
        raise OutOfMemory(f"{estimate.sentence()} This one has {memory / GIGABYTE:.3g} GB. {lowered_by}.")


@contextmanager
def memory_suffices(lowered_by: str) -> Iterator[None]:
    """XLA's error for memory that it can't get, as OutOfMemory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(
            f"The device's memory does not suffice ({str(error).splitlines()[0].strip().rstrip('.')}). {lowered_by}."
        ) from None
