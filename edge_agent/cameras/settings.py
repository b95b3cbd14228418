"""The camera's section of the agent's file: one model for each kind."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, model_validator

from edge_agent.settings import ConfigPath, Settings


def _rounds(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and value >= 0):
        return value
    raise ValueError("give the number of rounds, or true to go on for ever")


Rounds = Annotated[bool | int, BeforeValidator(_rounds)]


class FolderCameraConfig(Settings):
    """A camera that replays the pictures of a folder, in the order of their names."""

    kind: Literal["folder"]
    path: ConfigPath
    loop: Rounds = 1  # how many times through the folder; true: for ever
    interval_s: float = Field(default=0.0, ge=0.0)  # from part to part; 0: as fast as the engine goes


class VideoCameraConfig(Settings):
    """A camera that replays a video file, frame by frame."""

    kind: Literal["video"]
    path: ConfigPath
    loop: Rounds = 1


def _sharpness(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if value is None or value == "measured" or number:
        return value
    raise ValueError("give the least variance of the Laplacian, above 0, or measured")


class FrameChecksConfig(Settings):
    """What is looked for in each frame of a live camera; null or false: not looked for."""

    frozen_frames: int | None = Field(default=10, ge=2)  # the same picture so many times in a row
    black_level: int | None = Field(default=10, ge=0, le=254)  # nothing in the frame is brighter (99.9 % of it)
    over_exposed_share: float | None = Field(default=0.99, gt=0.0, le=1.0)  # of the pixels is saturated
    sharpness_min: Annotated[float | Literal["measured"] | None, BeforeValidator(_sharpness)] = None
    sharpness_share: float = Field(default=0.3, gt=0.0, lt=1.0)  # measured: of the first frames' median
    size: bool = True  # another one than configured, or than that of the first frame
    color: bool = True  # grey, or red and blue swapped, where the first frames were not


class StreamChecksConfig(FrameChecksConfig):
    """As FrameChecksConfig; an encoder repeats a scene without motion exactly, so it takes more to call it frozen."""

    frozen_frames: int | None = Field(default=250, ge=2)


class LiveCameraConfig(Settings):
    """What all cameras have in common that run by themselves."""

    stall_s: float = Field(default=2.0, gt=0.0, le=3600.0)  # silence so long is `unknown`, reason stalled
    open_timeout_s: float = Field(default=10.0, gt=0.0, le=3600.0)  # the same until the first frame
    reconnect_min_s: float = Field(default=1.0, gt=0.0)  # wait so long, then twice, four times, ... with jitter
    reconnect_max_s: float = Field(default=30.0, gt=0.0)
    checks: FrameChecksConfig = FrameChecksConfig()

    @model_validator(mode="after")
    def _waits_are_in_order(self) -> "LiveCameraConfig":
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("the longest wait, reconnect_max_s, is below the shortest, reconnect_min_s")
        return self


Pixels = Annotated[int, Field(ge=1, le=65536)]


class UsbCameraConfig(LiveCameraConfig):
    """A USB camera of Linux (V4L2, UVC), through OpenCV."""

    kind: Literal["usb"]
    device: Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=r"^/dev/.+$")] = 0
    width: Pixels | None = None  # None: as the camera is set
    height: Pixels | None = None
    fps: float | None = Field(default=None, gt=0.0)
    pixel_format: Literal["MJPG", "YUYV"] | None = None

    @model_validator(mode="after")
    def _size_is_whole(self) -> "UsbCameraConfig":
        if (self.width is None) != (self.height is None):
            raise ValueError("give both width and height, or neither")
        return self


def _is_rtsp(url: SecretStr) -> SecretStr:
    if re.fullmatch(r"rtsps?://[^/\s]+(/\S*)?", url.get_secret_value()):
        return url
    raise ValueError('give an address such as "rtsp://USER:{PASSWORD}@HOST:554/PATH"')


class RtspCameraConfig(LiveCameraConfig):
    """A network camera, through OpenCV's FFmpeg."""

    kind: Literal["rtsp"]
    url: Annotated[SecretStr, AfterValidator(_is_rtsp)]  # it may hold a password, so it is never shown
    transport: Literal["tcp", "udp"] = "tcp"
    checks: StreamChecksConfig = StreamChecksConfig()


def _is_pipeline(pipeline: SecretStr) -> SecretStr:
    if pipeline.get_secret_value().strip():
        return pipeline
    raise ValueError("give a GStreamer pipeline such as: v4l2src device=/dev/video0 ! videoconvert")


class GStreamerCameraConfig(LiveCameraConfig):
    """Whatever GStreamer can read."""

    kind: Literal["gstreamer"]
    pipeline: Annotated[SecretStr, AfterValidator(_is_pipeline)]  # as for gst-launch-1.0; ends in frames, or an appsink
    checks: StreamChecksConfig = StreamChecksConfig()


def _is_range(value: tuple[float, float]) -> tuple[float, float]:
    if 0 < value[0] <= value[1]:
        return value
    raise ValueError("give [least, most], both above 0; equal ones fix it")


Range = Annotated[tuple[float, float], AfterValidator(_is_range)]


class CsiCameraConfig(LiveCameraConfig):
    """A camera on a Jetson's CSI port, through nvarguscamerasrc."""

    kind: Literal["csi"]
    sensor_id: int = Field(default=0, ge=0)
    width: Pixels = 1920
    height: Pixels = 1080
    fps: int = Field(default=30, ge=1, le=1000)
    exposure_us: Range | None = None  # [least, most]; None: automatic
    gain: Range | None = None  # analogue gain as a factor, [least, most]
    flip: int = Field(default=0, ge=0, le=7)  # nvvidconv's flip-method: 2 is upside down


class GenICamConfig(LiveCameraConfig):
    """What GigE Vision and USB3 Vision have in common, through Aravis."""

    id: str | None = Field(default=None, min_length=1)  # as arv-tool-0.8 lists it, or an address; None: the first found
    pixel_format: Literal["Mono8", "BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8", "RGB8", "BGR8"] | None = (
        None  # None: as the camera is set
    )
    exposure_us: float | None = Field(default=None, gt=0.0)  # None: as the camera is set
    gain_db: float | None = Field(default=None, ge=0.0)
    fps: float | None = Field(default=None, gt=0.0)  # free_run only
    trigger: Literal["free_run", "software", "hardware"] = "free_run"
    trigger_line: str = Field(default="Line1", pattern=r"^[A-Za-z0-9_]+$")  # hardware: the input, by its GenICam name
    interval_s: float = Field(default=0.0, ge=0.0)  # software: from trigger to trigger; 0: when the engine has room
    buffers: int = Field(default=8, ge=2, le=1000)

    @model_validator(mode="after")
    def _rate_is_free(self) -> "GenICamConfig":
        if self.fps is not None and self.trigger != "free_run":
            raise ValueError("a triggered camera has the rate of its triggers: leave fps out")
        if self.interval_s and self.trigger != "software":
            raise ValueError("only the agent's own trigger has an interval_s: leave it out, or set trigger: software")
        return self


class GigeCameraConfig(GenICamConfig):
    """A GigE Vision camera."""

    kind: Literal["gige"]
    packet_size: int | None = Field(default=None, ge=220, le=65535)  # None: the largest that gets through
    packet_resend: bool = True  # ask for lost packets again; a frame that stays incomplete is unknown


class Usb3CameraConfig(GenICamConfig):
    """A USB3 Vision camera."""

    kind: Literal["usb3"]


CameraConfig = Annotated[
    FolderCameraConfig
    | VideoCameraConfig
    | UsbCameraConfig
    | RtspCameraConfig
    | CsiCameraConfig
    | GStreamerCameraConfig
    | GigeCameraConfig
    | Usb3CameraConfig,
    Field(discriminator="kind"),
]
CAMERA_KINDS = "folder, video, usb, rtsp, csi, gstreamer, gige or usb3"
