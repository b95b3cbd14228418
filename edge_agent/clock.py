"""Wall-clock time for messages, and whether it can be trusted."""

import ctypes
from datetime import datetime, timezone
from typing import Literal

_LIBC = ctypes.CDLL(None)
_UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR


def rfc3339(moment: datetime) -> str:
    """UTC with Z and always six digits of microseconds, so that texts sort as times do."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def utc() -> datetime:
    """The one place that asks the wall clock: it may jump by years, so nothing is ever timed or ordered by it."""
    return datetime.now(timezone.utc)


def now() -> str:
    return rfc3339(utc())


def time_sync() -> Literal["ok", "free_running"]:
    """Does something (NTP, PTP) discipline the kernel's clock? free_running where the system can't tell."""
    if not hasattr(_LIBC, "adjtimex"):
        return "free_running"
    timex = ctypes.create_string_buffer(512)  # struct timex is 208 bytes; modes = 0 asks and changes nothing
    status = _LIBC.adjtimex(timex)
    return "free_running" if status in (-1, _UNSYNCHRONISED) else "ok"
