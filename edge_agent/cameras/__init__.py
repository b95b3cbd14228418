"""Where frames come from: recordings and live cameras behind one small interface (frame.py)."""

from edge_agent.cameras.folder import FolderCamera
from edge_agent.cameras.frame import Camera, CameraError, Frame
from edge_agent.cameras.video import VideoFileCamera

__all__ = ["Camera", "CameraError", "FolderCamera", "Frame", "VideoFileCamera"]
