"""Renames that outlast a power cut."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Returns once the folder's entries are on the disk: a file renamed into it stays under its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
