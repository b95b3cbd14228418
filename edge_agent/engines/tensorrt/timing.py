"""TensorRT's timing cache: what it measured in one build shortens the next. One per TensorRT version and GPU.

The file is named by its content, so that it and its digest can't come apart.
"""

import logging
from hashlib import sha256
from pathlib import Path

from edge_agent.engines.tensorrt.cache import write

logger = logging.getLogger(__name__)
SUFFIX = ".timing"


def path_for(folder: Path, tensorrt: str, sm: str, data: bytes) -> Path:
    return folder / f"{_prefix(tensorrt, sm)}{sha256(data).hexdigest()[:32]}{SUFFIX}"


def find(folder: Path, tensorrt: str, sm: str) -> Path | None:
    """The newest timing cache of this TensorRT and compute capability."""
    paths = sorted(folder.glob(f"{_prefix(tensorrt, sm)}*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
    return paths[-1] if paths else None


def read(folder: Path, tensorrt: str, sm: str) -> bytes:
    """Its content; nothing, with a warning, where it was altered: a build without takes longer and is right."""
    path = find(folder, tensorrt, sm)
    if path is None:
        return b""
    data = path.read_bytes()
    if path == path_for(folder, tensorrt, sm, data):
        return data
    aside = path.with_suffix(".altered")
    path.replace(aside)
    logger.warning("%s was altered after it was written. It is set aside as %s; this build measures anew.", path, aside)
    return b""


def store(folder: Path, tensorrt: str, sm: str, data: bytes) -> Path:
    """Write it, and remove the one before."""
    path = path_for(folder, tensorrt, sm, data)
    if not path.exists():
        write(path, data)
    for other in folder.glob(f"{_prefix(tensorrt, sm)}*{SUFFIX}"):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def _prefix(tensorrt: str, sm: str) -> str:
    return f"timing-{tensorrt}-sm{sm.replace('.', '')}-"
