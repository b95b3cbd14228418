"""The processes that another one has started."""

import contextlib
import os
import signal
from pathlib import Path


def children(pid: int) -> list[int]:
    """Processes whose parent it is, zombies apart."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def kill_children(pid: int) -> int:
    """SIGKILL to each; how many there were."""
    found = children(pid)
    for child in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return len(found)
