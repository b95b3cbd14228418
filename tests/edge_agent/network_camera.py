"""Fake network cameras in processes of their own: started, stopped for a while, killed, started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("rtsp_server.py")


class NetworkCamera:
    """A GStreamer RTSP server of 15 frames a second, `width` x 240: a ball that moves before a background (RRGGBB)."""

    def __init__(self, gi_folder: Path, port: int):
        self.url = f"rtsp://127.0.0.1:{port}/line"
        self._gi_folder, self._port = gi_folder, port
        self._process: subprocess.Popen[str] | None = None

    def start(self, background: str, width: int = 320) -> None:
        path = os.pathsep.join(filter(None, [str(self._gi_folder), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, str(SERVER), str(self._port), background, str(width)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline() != "ready\n":
            why = self._process.stderr.read().strip()
            self._end()
            pytest.skip(f"GStreamer's RTSP server can't run: apt-get install gir1.2-gst-rtsp-server-1.0 ... ({why})")

    def hold(self) -> None:
        """It hangs: connections stay, nothing is sent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._end()

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _end(self) -> None:
        assert self._process is not None
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process = None
