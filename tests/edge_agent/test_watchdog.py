"""What systemd would receive, at a real datagram socket."""

import os
import socket
import uuid

import pytest

from edge_agent.watchdog import Watchdog


@pytest.fixture(params=["a path", "an abstract name"])
def notified(request, tmp_path):
    """(NOTIFY_SOCKET as systemd sets it, the socket that it reads)."""
    name = str(tmp_path / "notify") if request.param == "a path" else f"@faultline-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind("\0" + name[1:] if name.startswith("@") else name)
        reader.settimeout(2)
        yield name, reader


def test_it_tells_ready_alive_and_stopping(notified):
    name, reader = notified
    watchdog = Watchdog({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    watchdog.ready("bottle version 3 on tensorrt\nand a second line")
    watchdog.alive()
    watchdog.stopping()
    assert [reader.recv(1000) for _ in range(3)] == [
        b"READY=1\nSTATUS=bottle version 3 on tensorrt",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]
    assert watchdog.interval_s == 15.0


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "/nowhere/notify"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "soon"},
    ],
)
def test_where_nobody_watches_or_listens_nothing_happens(environment):
    watchdog = Watchdog(environment)
    assert watchdog.interval_s is None
    watchdog.ready()
    watchdog.alive("fine")
    watchdog.stopping()


def test_a_reader_that_does_not_read_does_not_stop_the_line(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "notify"))
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"x" * 1000, str(tmp_path / "notify"))
        watchdog.alive()
