"""GigE Vision and USB3 Vision cameras, through Aravis."""

import importlib
import threading
from typing import Any

import cv2
import numpy as np

from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.live import Mode, Shot
from edge_agent.cameras.settings import GenICamConfig, GigeCameraConfig

MODES: dict[str, Mode] = {"free_run": "newest", "software": "asked", "hardware": "every"}

# PFNC's numbers of the 8-bit formats. Bayer's letters name the first row's first two pixels, as OpenCV's RGGB does.
TO_RGB: dict[int, tuple[str, int | None]] = {
    0x01080001: ("Mono8", cv2.COLOR_GRAY2RGB),
    0x01080008: ("BayerGR8", cv2.COLOR_BayerGRBG2RGB),
    0x01080009: ("BayerRG8", cv2.COLOR_BayerRGGB2RGB),
    0x0108000A: ("BayerGB8", cv2.COLOR_BayerGBRG2RGB),
    0x0108000B: ("BayerBG8", cv2.COLOR_BayerBGGR2RGB),
    0x02180014: ("RGB8", None),
    0x02180015: ("BGR8", cv2.COLOR_BGR2RGB),
}


class AravisSource:
    """An opened camera whose acquisition runs."""

    def __init__(self, config: GenICamConfig):
        self._name, self._config, self._aravis = camera_name(config), config, load_aravis()
        self._lost = threading.Event()
        self._last_id: int | None = None
        try:
            self._camera = self._aravis.Camera.new(config.id)
        except Exception as error:  # GLib.Error, whose class is known only where gi is
            raise CameraError(
                f"{self._name} can't be opened ({_text(error)}). Check power, cable and address; `arv-tool-0.8` lists "
                "the cameras that answer. One program at a time can hold a camera."
            ) from None
        self._stream: Any = None
        try:
            self._set_up()
        except CameraError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise CameraError(f"{self._name} refuses its settings: {_text(error)}.") from None

    def read(self, timeout_s: float) -> Shot | None:
        buffer = self._stream.timeout_pop_buffer(int(1e6 * timeout_s))
        if buffer is None:
            if self._lost.is_set():
                raise CameraError(f"{self._name} is lost: it doesn't answer any more. Check power and cable.")
            return None
        try:
            return self._shot(buffer)
        finally:
            self._stream.push_buffer(buffer)

    def trigger(self) -> None:
        try:
            self._camera.software_trigger()
        except Exception as error:
            raise CameraError(f"{self._name} can't be triggered: {_text(error)}.") from None

    def close(self) -> None:
        try:
            self._camera.stop_acquisition()
        except Exception:
            self._lost.set()  # it is gone, and that is why
        # Aravis ends its threads and gives the camera back when nothing refers to it any more.
        self._stream = self._camera = None

    def _set_up(self) -> None:
        config, camera = self._config, self._camera
        if config.pixel_format is not None:
            camera.set_pixel_format_from_string(config.pixel_format)
        if (given := camera.get_pixel_format()) not in TO_RGB:
            formats = ", ".join(name for name, _ in TO_RGB.values())
            given_name = camera.get_pixel_format_as_string() or f"0x{given:08x}"
            raise CameraError(f"{self._name} gives {given_name}. Set pixel_format to one of {formats}.")
        if config.exposure_us is not None:
            if camera.is_exposure_auto_available():
                camera.set_exposure_time_auto(self._aravis.Auto.OFF)
            self._within("exposure_us", config.exposure_us, camera.get_exposure_time_bounds())
            camera.set_exposure_time(config.exposure_us)
        if config.gain_db is not None:
            if camera.is_gain_auto_available():
                camera.set_gain_auto(self._aravis.Auto.OFF)
            self._within("gain_db", config.gain_db, camera.get_gain_bounds())
            camera.set_gain(config.gain_db)
        camera.clear_triggers()
        if config.fps is not None:
            camera.set_frame_rate(config.fps)
        if config.trigger != "free_run":
            camera.set_trigger("Software" if config.trigger == "software" else config.trigger_line)
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if isinstance(config, GigeCameraConfig) and camera.is_gv_device():
            if config.packet_size is None:
                camera.gv_auto_packet_size()
            else:
                camera.gv_set_packet_size(config.packet_size)
        self._stream = camera.create_stream(None, None)
        if self._stream is None:
            raise CameraError(f"{self._name} opens no stream. Another program may hold it.")
        if isinstance(config, GigeCameraConfig) and camera.is_gv_device():
            resend = self._aravis.GvStreamPacketResend
            self._stream.set_property("packet-resend", resend.ALWAYS if config.packet_resend else resend.NEVER)
        payload = camera.get_payload()
        for _ in range(config.buffers):
            self._stream.push_buffer(self._aravis.Buffer.new_allocate(payload))
        camera.get_device().connect("control-lost", lambda device: self._lost.set())
        camera.start_acquisition()

    def _within(self, setting: str, value: float, bounds: tuple[float, float]) -> None:
        if not bounds[0] <= value <= bounds[1]:
            raise CameraError(
                f"{self._name}: {setting} is {value:g}, and the camera takes {bounds[0]:g} to {bounds[1]:g}."
            )

    def _shot(self, buffer: Any) -> Shot:
        status, number = buffer.get_status(), buffer.get_frame_id()
        if status != self._aravis.BufferStatus.SUCCESS:
            why = status.value_nick.replace("-", " ")
            return Shot(error=f"A frame of {self._name} arrived incomplete ({why}).", reason="bad_frame")
        if number == self._last_id:
            return Shot(error=f"{self._name} sent its frame {number} twice.", reason="bad_frame")
        self._last_id = number
        width, height = buffer.get_image_width(), buffer.get_image_height()
        image = to_rgb(buffer.get_data(), buffer.get_image_pixel_format(), width, height)
        if image is None:
            text = f"{self._name} sent a frame of {width} x {height} pixels that isn't in the format it was set to."
            return Shot(error=text, reason="bad_frame")
        return Shot(image)


def to_rgb(data: bytes, pixel_format: int, width: int, height: int) -> np.ndarray | None:
    """uint8 [h, w, 3] RGB; None where the format is unknown here or the data is too short for it."""
    if pixel_format not in TO_RGB:
        return None
    name, code = TO_RGB[pixel_format]
    channels = 3 if name in ("RGB8", "BGR8") else 1
    size = width * height * channels
    if not 0 < size <= len(data):
        return None
    image = np.frombuffer(data, np.uint8, size).reshape((height, width, 3) if channels == 3 else (height, width))
    rgb: np.ndarray = image.copy() if code is None else cv2.cvtColor(image, code)
    return rgb


def camera_name(config: GenICamConfig) -> str:
    kind = "GigE Vision" if isinstance(config, GigeCameraConfig) else "USB3 Vision"
    return f"The {kind} camera {config.id}" if config.id else f"The {kind} camera"


def load_aravis() -> Any:
    """The module Aravis. CameraError, with what to install, where it isn't there."""
    try:
        importlib.import_module("gi").require_version("Aravis", "0.8")
        return importlib.import_module("gi.repository.Aravis")
    except (ImportError, ValueError) as error:
        raise CameraError(
            f"The camera needs Aravis and PyGObject ({error}). On Debian and Ubuntu: apt-get install python3-gi "
            "gir1.2-aravis-0.8; docs/cameras.md says how an environment of its own finds them."
        ) from None


def _text(error: Exception) -> str:
    return str(getattr(error, "message", error)).strip().rstrip(".")
