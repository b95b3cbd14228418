"""Where a run comes from: versions, commit, command, data."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

Value = str | int | float | None
PACKAGES = ("faultline", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python-headless")


def versions() -> dict[str, str]:
    """Of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with "+" if files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe(product: str, data_digest: str, device: str) -> dict[str, Value]:
    """Flat, for provenance.json, the bundle's manifest and the report."""
    return {
        "product": product,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"python -m train {shlex.join(sys.argv[1:])}",
        "commit": commit(),
        "data_digest": data_digest,
        "device": device,
        **{f"version_{name}": version for name, version in versions().items()},
    }
