"""The agent's base install on the oldest Python it promises: Jetsons have 3.10, and no JAX."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle
from line import ROOT, draw_parts, make_line
from mosquitto import free_port

pytestmark = pytest.mark.slow
PYENV = {**os.environ, "PYENV_VERSION": "3.10"}  # pyenv's shims run nothing else than the version chosen


def find_python310() -> str:
    """The interpreter itself, not a shim in front of it."""
    shim = shutil.which("python3.10")
    code = "import sys; print(sys.executable)"
    found = shim and subprocess.run([shim, "-c", code], env=PYENV, capture_output=True, text=True, check=False)
    if not found or found.returncode:
        pytest.skip("python3.10 is not on the PATH")
    return found.stdout.strip()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.10 with the base install, and nothing of the checkout on its path."""
    folder = tmp_path_factory.mktemp("python310")
    subprocess.run([find_python310(), "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if importlib.util.find_spec("uv"):  # the Makefile's environment has it: seconds instead of minutes
        install = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    subprocess.run([*install, "--quiet", "-c", ROOT / "constraints.txt", ROOT], check=True)
    return python


def run(python: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-W", "error::DeprecationWarning:edge_agent", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_base_install_has_no_jax_and_every_module_of_the_agent_loads(python, tmp_path):
    code = """
import importlib, json, pkgutil, sys
import edge_agent
names = [module.name for module in pkgutil.walk_packages(edge_agent.__path__, "edge_agent.")]
for name in names:
    importlib.import_module(name)
heavy = [name for name in ("jax", "flax", "torch", "onnx", "train", "export") if name in sys.modules]
print(json.dumps({"version": sys.version_info[:2], "heavy": heavy, "modules": len(names), "from": edge_agent.__file__}))
"""
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["version"] == [3, 10]
    assert said["heavy"] == []
    assert said["modules"] > 15
    assert str(ROOT) not in said["from"].replace(str(python.parents[1]), "")
    assert run(python, tmp_path, "-c", "import jax").returncode == 1


def test_score_and_run_work(python, tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model())
    parts = draw_parts(tmp_path / "parts", tiny_bundle.parts(4))
    done = run(python, tmp_path, "-m", "edge_agent", "score", bundle, parts, "--json", "--save", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["pass", "pass", "reject", "reject"]
    config = make_line(tmp_path / "line", port=free_port(), parts=4, mqtt={"drain_timeout_s": 0.1})
    done = run(python, tmp_path, "-m", "edge_agent", "run", "--config", config)
    assert done.returncode == 1, done.stderr  # no broker: the verdicts wait
    assert "4 parts: 2 pass, 2 reject, 0 unknown. 0 verdicts delivered, 6 messages left" in done.stderr
    again = run(python, tmp_path, "-m", "edge_agent", "check", config)
    assert "can't be reached" in again.stdout
