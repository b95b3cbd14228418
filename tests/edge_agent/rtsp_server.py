"""A network camera: python rtsp_server.py PORT RRGGBB WIDTH serves rtsp://127.0.0.1:PORT/line, a ball on a colour."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

port, background, width = sys.argv[1], 0xFF000000 | int(sys.argv[2], 16), int(sys.argv[3])
Gst.init(None)
missing = [name for name in ("videotestsrc", "x264enc", "rtph264pay") if Gst.ElementFactory.find(name) is None]
if missing:
    sys.exit(f"GStreamer has no {', '.join(missing)}: apt-get install gstreamer1.0-plugins-{{base,good,ugly}}")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball background-color={background} foreground-color={0xFFFF8000} "
    f"! video/x-raw,width={width},height=240,framerate=15/1 ! videoconvert "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 threads=1 ! rtph264pay name=pay0 )"
)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
server.get_mount_points().add_factory("/line", factory)
if not server.attach(None):
    sys.exit(f"port {port} is taken")
print("ready", flush=True)
GLib.MainLoop().run()
