"""GStreamer pipelines, through PyGObject: whatever GStreamer reads, and the CSI cameras of a Jetson."""

import importlib
import re
from typing import Any

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.live import Shot
from edge_agent.cameras.redact import redact
from edge_agent.cameras.settings import CsiCameraConfig

# The sink must not drop: what is dropped is counted, and that is the reader's business.
SINK = "videoconvert ! video/x-raw,format=RGB ! appsink max-buffers=2 drop=false sync=false"
TO_RGB = {"RGB": None, "BGR": cv2.COLOR_BGR2RGB, "GRAY8": cv2.COLOR_GRAY2RGB}


class GStreamerSource:
    """A playing pipeline with an appsink at its end."""

    def __init__(self, name: str, pipeline: str):
        self._name, self._gst = name, load_gstreamer()
        try:
            self._pipeline = self._gst.parse_launch(with_sink(pipeline))
        except Exception as error:  # GLib.Error, whose class is known only where gi is
            raise CameraError(f"{name}: the pipeline can't be built: {_sentence(error)}") from None
        self._bus = self._pipeline.get_bus()
        try:
            self._sink = self._find_sink()
            if self._pipeline.set_state(self._gst.State.PLAYING) == self._gst.StateChangeReturn.FAILURE:
                raise CameraError(f"{name} can't be opened: {self._problem() or 'GStreamer gives no reason.'}")
        except CameraError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Shot | None:
        sample = self._sink.try_pull_sample(int(timeout_s * self._gst.SECOND))
        if sample is not None:
            return self._shot(sample)
        if why := self._problem():
            raise CameraError(f"{self._name} broke down: {why}")
        if self._sink.is_eos():
            raise CameraError(f"{self._name} gives no more frames: its stream ended.")
        return None

    def trigger(self) -> None:
        raise CameraError(f"{self._name} can't be triggered.")

    def close(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)

    def _find_sink(self) -> Any:
        sinks = self._pipeline.iterate_sinks() if hasattr(self._pipeline, "iterate_sinks") else None
        while sinks is not None:
            result, element = sinks.next()
            if result != self._gst.IteratorResult.OK:
                break
            if element.get_factory().get_name() == "appsink":
                return element
        raise CameraError(f"{self._name}: the pipeline has no appsink. Leave its sink out, and the agent adds it.")

    def _problem(self) -> str | None:
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        return None if message is None else _sentence(message.parse_error()[0])

    def _shot(self, sample: Any) -> Shot:
        caps = sample.get_caps().get_structure(0)
        width, height, kind = caps.get_value("width"), caps.get_value("height"), caps.get_value("format")
        if kind not in TO_RGB:
            raise CameraError(
                f"{self._name} gives frames in {kind or caps.get_name()}. Put `videoconvert ! video/x-raw,format=RGB` "
                "before the appsink."
            )
        buffer = sample.get_buffer()
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            return Shot(error=f"{self._name} gave a frame that can't be read.", reason="bad_frame")
        try:
            image = pixels(bytes(memory.data), width, height, 1 if kind == "GRAY8" else 3)
        finally:
            buffer.unmap(memory)
        if image is None:
            text = f"{self._name} gave {memory.size} bytes for a frame of {width} x {height} pixels."
            return Shot(error=text, reason="bad_frame")
        code = TO_RGB[kind]
        return Shot(image if code is None else cv2.cvtColor(image, code))


def pixels(data: bytes, width: int, height: int, channels: int) -> np.ndarray | None:
    """uint8 [h, w, 3] or [h, w] of rows that are padded to equal length; None where the data can't be that."""
    stride, rest = divmod(len(data), height)
    if rest or stride < width * channels:
        return None
    rows = np.frombuffer(data, np.uint8).reshape(height, stride)[:, : width * channels]
    return np.ascontiguousarray(rows if channels == 1 else rows.reshape(height, width, channels))


def load_gstreamer() -> Any:
    """The module Gst. CameraError, with what to install, where it isn't there."""
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        importlib.import_module("gi.repository.GstApp")  # gives the appsink its methods
        gst = importlib.import_module("gi.repository.Gst")
    except (ImportError, ValueError) as error:
        raise CameraError(
            f"The camera needs GStreamer and PyGObject ({error}). On Debian and Ubuntu: apt-get install python3-gi "
            "gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good; docs/cameras.md says how "
            "an environment of its own finds them."
        ) from None
    gst.init(None)
    return gst


def with_sink(pipeline: str) -> str:
    """The pipeline with the agent's sink, where it hasn't its own appsink."""
    if re.search(r"(^|!)\s*appsink\b", pipeline):
        return pipeline
    whole = pipeline.rstrip(" !\n")
    return f"{whole} ! {SINK}"


def csi_pipeline(config: CsiCameraConfig) -> str:
    """nvarguscamerasrc's frames from the Jetson's image processor to main memory."""
    source = f"nvarguscamerasrc sensor-id={config.sensor_id}"
    if config.exposure_us is not None:
        least, most = (round(1000 * value) for value in config.exposure_us)  # nanoseconds
        source += f' exposuretimerange="{least} {most}"'
    if config.gain is not None:
        source += f' gainrange="{config.gain[0]:g} {config.gain[1]:g}"'
    caps = f"width={config.width},height={config.height},framerate={config.fps}/1,format=NV12"
    # Copies out of the GPU's memory and turns NV12 into BGRx in hardware; the CPU only drops the fourth byte.
    convert = f"nvvidconv flip-method={config.flip} ! video/x-raw,format=BGRx"
    return f"{source} ! video/x-raw(memory:NVMM),{caps} ! {convert} ! {SINK}"


def _sentence(error: Any) -> str:
    return f"{redact(str(getattr(error, 'message', error)).strip()).rstrip('.')}."
