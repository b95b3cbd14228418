"""What TensorRT says: kept for our sentences, passed on to the log."""

import logging
import threading
from typing import Any

from edge_agent.engines.tensorrt.api import TensorRT

logger = logging.getLogger(__name__)
LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING}
KEEP = 50


class Heard:
    """The errors and warnings since they were last asked for; TensorRT calls from threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: list[str] = []

    def note(self, severity: str, message: str) -> None:
        level = LEVELS.get(severity, logging.DEBUG)
        logger.log(min(level, logging.WARNING), "%s", message)  # an error becomes an exception, which is logged once
        if level == logging.ERROR:
            with self._lock:
                self._errors = [*self._errors, message][-KEEP:]

    def errors(self) -> str:
        """All errors so far, and forget them."""
        with self._lock:
            text, self._errors = "; ".join(dict.fromkeys(self._errors)), []
        return text


def make_logger(trt: TensorRT, heard: Heard) -> Any:
    """A TensorRT ILogger that tells `heard`; it must live as long as what it was given to."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            heard.note(str(severity).rsplit(".", 1)[-1], msg)

    return Logger()
