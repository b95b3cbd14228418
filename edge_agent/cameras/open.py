"""From a camera's section of the configuration to the camera."""

from functools import partial

from edge_agent.cameras.aravis import MODES, AravisSource, camera_name, load_aravis
from edge_agent.cameras.folder import FolderCamera
from edge_agent.cameras.frame import Camera
from edge_agent.cameras.gstreamer import GStreamerSource, csi_pipeline, load_gstreamer
from edge_agent.cameras.live import LiveCamera
from edge_agent.cameras.opencv import open_rtsp, open_usb, rtsp_name, usb_name
from edge_agent.cameras.settings import (
    CameraConfig,
    CsiCameraConfig,
    FolderCameraConfig,
    GStreamerCameraConfig,
    RtspCameraConfig,
    UsbCameraConfig,
    VideoCameraConfig,
)
from edge_agent.cameras.video import VideoFileCamera


def open_camera(config: CameraConfig) -> Camera:
    """CameraError where a recording can't be opened or has nothing to give, or a library is missing.

    A live camera that doesn't answer is no error: it is tried for ever, and its frames say what is wrong.
    """
    if isinstance(config, FolderCameraConfig):
        return FolderCamera(config.path, loop=config.loop, interval_s=config.interval_s)
    if isinstance(config, VideoCameraConfig):
        return VideoFileCamera(config.path, loop=config.loop)
    if isinstance(config, UsbCameraConfig):
        size = None if config.width is None or config.height is None else (config.width, config.height)
        return LiveCamera(usb_name(config), partial(open_usb, config), config, size=size)
    if isinstance(config, RtspCameraConfig):
        return LiveCamera(rtsp_name(config), partial(open_rtsp, config), config)
    if isinstance(config, GStreamerCameraConfig | CsiCameraConfig):
        load_gstreamer()  # what is missing shows before the line starts
        if isinstance(config, CsiCameraConfig):
            name, pipeline, size = f"The CSI camera {config.sensor_id}", csi_pipeline(config), _csi_size(config)
        else:
            name, pipeline, size = "The GStreamer camera", config.pipeline.get_secret_value(), None
        return LiveCamera(name, partial(GStreamerSource, name, pipeline), config, size=size)
    load_aravis()
    return LiveCamera(
        camera_name(config),
        partial(AravisSource, config),
        config,
        mode=MODES[config.trigger],
        interval_s=config.interval_s,
    )


def _csi_size(config: CsiCameraConfig) -> tuple[int, int]:
    """As the frames arrive: flips 1, 3, 5 and 7 turn them by 90 degrees or mirror them at a diagonal."""
    turned = config.flip in (1, 3, 5, 7)
    return (config.height, config.width) if turned else (config.width, config.height)
