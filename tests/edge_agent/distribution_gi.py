"""PyGObject of the distribution, for this environment's Python: its folder alone, not what lies beside it."""

import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = ("/usr/lib/python3/dist-packages", "/usr/lib64/python3/site-packages")


@pytest.fixture(scope="session")
def gi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on the path, with `gi` in it. Skips where there is none for this Python."""
    folder = tmp_path_factory.mktemp("gi")
    if find_spec("gi") is not None:
        return folder
    built = f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}"
    for packages in map(Path, PACKAGES):
        if (packages / "gi" / built).exists():
            (folder / "gi").symlink_to(packages / "gi")
            return folder
    pytest.skip(f"no PyGObject for this Python ({built}): apt-get install python3-gi, and the Python it is built for")
