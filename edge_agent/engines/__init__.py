"""Engines: what runs a bundle's model. One interface, chosen by name."""

from typing import Literal, NamedTuple, Protocol

import numpy as np

from edge_agent.bundle import MODEL, Bundle, read_golden

EngineKind = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "replay"]


class EngineError(RuntimeError):
    """An engine that can't be built, trusted or run; the message says why and what to do. Its part is `unknown`."""


class EngineNotBuilt(EngineError):
    """The engine needs a compiled file and none in the cache fits this bundle and device; the message says why."""


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


def open_engine(bundle: Bundle, kind: EngineKind = "onnxruntime", *, threads: int | None = None) -> Engine:
    """The engine `kind` for a bundle; `golden.check_golden` then says whether it may be trusted on this device.

    threads: of the engine itself; None leaves the choice to it (all cores). "replay" gives the golden scores in turn.
    """
    if kind == "replay":
        from edge_agent.engines.replay import ReplayEngine

        golden = read_golden(bundle)
        return ReplayEngine(Scores(golden.image_score, golden.anomaly_map, golden.raw_score))
    if kind != "onnxruntime":
        raise EngineError(f"{kind!r} is no engine of this release. Choose onnxruntime or replay.")
    from edge_agent.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(bundle.read(MODEL), threads=threads)
    size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    if engine.size != size:
        engine.close()
        raise EngineError(
            f"{bundle.folder / MODEL} takes images of {engine.size[1]} x {engine.size[0]} pixels, but manifest.json "
            f"promises {size[1]} x {size[0]}. Export the bundle again."
        )
    return engine


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
