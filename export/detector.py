"""A trained run as the graph that the line runs: uint8 images in, normalised and raw scores out."""

import jax
import numpy as np
import onnx
from jaxtyping import Array, Float, UInt8

from edge_agent.bundle import TensorSpec
from export.lower import InputSpec, lower
from train.fit_threshold import Thresholds
from train.run import TrainedRun

OUTPUTS = ("image_score", "anomaly_map", "raw_score")


class LineScorer:
    """What the graph computes, as a JAX function: the reference that engines are held to."""

    def __init__(self, run: TrainedRun, thresholds: Thresholds):
        self._run, self._thresholds = run, thresholds
        self._compiled = jax.jit(self.trace)

    def trace(
        self, images: UInt8[Array, "n h w 3"]
    ) -> tuple[Float[Array, " n"], Float[Array, "n h w"], Float[Array, " n"]]:
        """image_score and anomaly_map in units of their thresholds, and raw_score; pure and traceable."""
        raw = self._run.score(images)
        return raw.image_score / self._thresholds.image, raw.anomaly_map / self._thresholds.pixel, raw.image_score

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same in float32 on this machine; one compiled program per batch size."""
        image_score, anomaly_map, raw_score = self._compiled(images)
        return np.asarray(image_score), np.asarray(anomaly_map), np.asarray(raw_score)


def lower_detector(run: TrainedRun, scorer: LineScorer) -> onnx.ModelProto:
    """The float32 graph; LoweringError names an operation that has no ONNX form and its place."""
    size = (run.preprocessing.height, run.preprocessing.width)
    image = InputSpec(("batch", *size, 3), np.uint8)
    return lower(scorer.trace, {"image": image}, OUTPUTS, name=run.system)


def tensor_specs(run: TrainedRun) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The manifest's description of the graph's input and outputs."""
    size = (run.preprocessing.height, run.preprocessing.width)
    image = TensorSpec(name="image", shape=("batch", *size, 3), dtype="uint8", unit="RGB, 0 to 255")
    return image, (
        TensorSpec(name="image_score", shape=("batch",), dtype="float32", unit="1 is the image threshold"),
        TensorSpec(name="anomaly_map", shape=("batch", *size), dtype="float32", unit="1 is the pixel threshold"),
        TensorSpec(name="raw_score", shape=("batch",), dtype="float32", unit="the detector's own, see score"),
    )
