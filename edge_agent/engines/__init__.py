"""Engines: what runs a bundle's model. One interface, chosen by name."""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np

from edge_agent.bundle import MODEL, Bundle, read_golden

EngineKind = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "replay"]


class EngineError(RuntimeError):
    """An engine that can't be built, trusted or run; the message says why and what to do. Its part is `unknown`."""


class EngineNotBuilt(EngineError):
    """The engine needs a compiled file and none in the cache fits this bundle and device; the message says why."""


class EngineLost(EngineError):
    """The engine can't go on in this process (a sticky CUDA error): only a new process helps."""


class EngineDied(EngineError):
    """The engine's own process is gone; `alive` of a ChildEngine is False from now on."""


class Scores(NamedTuple):
    """What a model says about n parts; normalised values are over the thresholds, so 1.0 is the limit."""

    image_score: np.ndarray  # float32 [n], normalised
    anomaly_map: np.ndarray  # float32 [n, height, width], normalised
    raw_score: np.ndarray  # float32 [n], in the detector's own unit


class Engine(Protocol):
    """Scores images; not safe for use by two threads at once."""

    name: str

    def run(self, images: np.ndarray) -> Scores:
        """uint8 [n, height, width, 3] RGB at model size to Scores of the n parts; EngineError where it can't."""
        ...

    def close(self) -> None:
        """Free what the engine holds. Running it afterwards is an EngineError."""
        ...


class Slotted(Engine, Protocol):
    """An engine that works on several batches at one time: the next is copied while the former executes."""

    slots: int

    def submit(self, images: np.ndarray) -> int:
        """Begin with a batch; the ticket that `collect` takes. At most `slots` are out at one time."""
        ...

    def collect(self, ticket: int) -> Scores:
        """Wait for the answer to a ticket and free its slot. EngineError where that batch failed."""
        ...


def open_engine(
    bundle: Bundle,
    kind: EngineKind = "onnxruntime",
    *,
    threads: int | None = None,
    cache: Path | None = None,
    device: int = 0,
    precision: str | None = None,
) -> Engine:
    """The engine `kind` for a bundle; `golden.check_golden` then says whether it may be trusted on this device.

    threads: of the engine itself; None leaves the choice to it (all cores). "replay" gives the golden scores in turn.
    cache, device: the folder of compiled engine files and the GPU, for tensorrt and tensorrt_rtx; EngineNotBuilt where
    the folder has no file that fits. precision: openvino's: float32, bfloat16, or auto (None): the fastest of the CPU.
    """
    if kind == "replay":
        from edge_agent.engines.replay import ReplayEngine

        golden = read_golden(bundle)
        return ReplayEngine(Scores(golden.image_score, golden.anomaly_map, golden.raw_score))
    if kind in ("tensorrt", "tensorrt_rtx"):
        from edge_agent.engines.tensorrt import DEFAULT_CACHE, open_tensorrt

        return open_tensorrt(bundle, flavour=kind, cache=cache or DEFAULT_CACHE, device=device)
    engine: _Sized
    if kind == "onnxruntime":
        from edge_agent.engines.onnxruntime import OnnxRuntimeEngine

        engine = OnnxRuntimeEngine(bundle.read(MODEL), threads=threads)
    elif kind == "openvino":
        from edge_agent.engines.openvino import OpenVinoEngine

        engine = OpenVinoEngine(bundle.read(MODEL), threads=threads, precision=precision or "auto")
    else:
        raise EngineError(f"{kind!r} is no engine of this release. Choose one of {', '.join(get_args(EngineKind))}.")
    size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    if engine.size != size:
        engine.close()
        raise EngineError(
            f"{bundle.folder / MODEL} takes images of {engine.size[1]} x {engine.size[0]} pixels, but manifest.json "
            f"promises {size[1]} x {size[0]}. Export the bundle again."
        )
    return engine


class _Sized(Engine, Protocol):
    size: tuple[int, int]  # height, width


class _OneSlot:
    """A plain engine as one with a single slot: `collect` does the work."""

    slots = 1

    def __init__(self, engine: Engine):
        self._engine, self.name, self._images = engine, engine.name, None

    _images: np.ndarray | None

    def submit(self, images: np.ndarray) -> int:
        if self._images is not None:
            raise EngineError("A plain engine has one slot. Collect the answer before the next submit.")
        self._images = images
        return 0

    def collect(self, ticket: int) -> Scores:
        images, self._images = self._images, None
        if images is None:
            raise EngineError("Nothing was submitted. Submit a batch, then collect its answer once.")
        return self._engine.run(images)

    def run(self, images: np.ndarray) -> Scores:
        return self._engine.run(images)

    def close(self) -> None:
        self._engine.close()


def as_slotted(engine: Engine) -> Slotted:
    """The engine itself where it has slots; a plain one behind a single slot."""
    return cast(Slotted, engine) if hasattr(engine, "slots") else _OneSlot(engine)


def check_images(images: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """EngineError unless `images` is uint8 [n >= 1, height, width, 3] of the model's (height, width)."""
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or not len(images)
        or images.shape[1:] != (*(size or images.shape[1:3]), 3)
    ):
        height, width = size or ("height", "width")
        raise EngineError(
            f"The engine was given {images.dtype} {list(images.shape)}; it takes uint8 [n, {height}, {width}, 3]. "
            "Pass frames through preprocess.prepare with the bundle's own preprocessing."
        )
