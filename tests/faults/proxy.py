"""A real TCP proxy between agent and broker that cuts, delays, throttles, and half-opens."""

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

Way = Literal["up", "down"]  # to the broker, from the broker
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close with a reset


class Proxy:
    """Listens on `port` and passes bytes on to `target`, until it is told otherwise.

    delay_s: what each chunk waits; bytes_per_s: of each connection and direction; both may change at any time.
    """

    def __init__(self, target: int):
        self._target, self._server = target, socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.delay_s, self.bytes_per_s = 0.0, float("inf")
        self.connections = 0
        self.swallowed = 0  # bytes
        self._lock, self._refusing = threading.Lock(), False
        self._silent: set[tuple[socket.socket, Way]] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def go_silent(self, *ways: Way) -> None:
        """Swallow all that comes on the present connections that way (both without one), and close nothing."""
        with self._lock:
            self._silent |= {(near, way) for near, _ in self._pairs for way in ways or ("up", "down")}

    def cut(self, *, refuse: bool = False) -> None:
        """Reset the present connections; `refuse` new ones until `mend`."""
        with self._lock:
            self._refusing = refuse
            pairs, self._pairs, self._silent = self._pairs, [], set()
        for pair in pairs:
            _reset(*pair)

    def mend(self) -> None:
        self._refusing = False

    def close(self) -> None:
        self._server.close()
        self.cut(refuse=True)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5.0)
            except OSError:
                _reset(near)
                continue
            far.settimeout(None)
            with self._lock:
                self._pairs.append((near, far))
            self.connections += 1
            threading.Thread(target=self._pass_on, args=(near, near, far, "up"), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(near, far, near, "down"), daemon=True).start()

    def _pass_on(self, near: socket.socket, source: socket.socket, sink: socket.socket, way: Way) -> None:
        try:
            while data := source.recv(4096):
                if (near, way) in self._silent:
                    self.swallowed += len(data)
                    continue
                time.sleep(self.delay_s + len(data) / self.bytes_per_s)
                sink.sendall(data)
            if (near, way) not in self._silent:
                sink.shutdown(socket.SHUT_WR)
        except OSError:  # a reset of one side is one of the other
            if (near, way) not in self._silent:
                _reset(sink)


def _reset(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            each.shutdown(socket.SHUT_RDWR)
        each.close()
