"""Imports go one way (design: data flows train -> export -> edge_agent's bundle), and files have one subject."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("train", "export", "edge_agent")
SERVER_ONLY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "torch", "train", "export", "onnx", "matplotlib"}
FROM_EDGE_AGENT = {
    "train": {"preprocess"},
    "export": {"bundle", "preprocess", "engines"},
}
SUBJECTLESS = {"utils", "util", "helpers", "helper", "misc", "common"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """Line and absolute dotted name of every import, `from a import b` as a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; write the whole name"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", sources("edge_agent"), ids=str)
def test_the_agent_never_sees_the_server(path):
    wrong = [f"{path}:{line} imports {name}" for line, name in imported(path) if name.split(".")[0] in SERVER_ONLY]
    assert not wrong


@pytest.mark.parametrize("package", FROM_EDGE_AGENT)
def test_the_server_takes_of_the_agent_only_what_both_must_agree_on(package):
    wrong = []
    for path in sources(package):
        for line, name in imported(path):
            parts = name.split(".")
            if parts[0] == "edge_agent" and not set(parts[1:2]) <= FROM_EDGE_AGENT[package]:
                wrong.append(f"{path}:{line} imports {name}")
    assert not wrong


def test_training_does_not_know_the_export():
    wrong = [
        f"{path}:{line} imports {name}"
        for path in sources("train")
        for line, name in imported(path)
        if name.split(".")[0] in {"export", "onnx", "onnxruntime"}
    ]
    assert not wrong


def test_every_file_names_its_subject():
    wrong = [path for package in PACKAGES for path in sources(package) if path.stem in SUBJECTLESS]
    assert not wrong


# Reads .pth files: a pickle interpreter that knows five inert names (tests/train/test_pretrained_torch_file.py).
INERT_PICKLE_READER = ROOT / "train" / "backbones" / "torch_file.py"


def test_no_pickle_and_no_stub_anywhere():
    wrong = []
    for package in PACKAGES:
        for path in sources(package):
            if path != INERT_PICKLE_READER:
                wrong += [f"{path}:{line}" for line, name in imported(path) if name.split(".")[0] in {"pickle", "dill"}]
            wrong += [
                f"{path}:{node.lineno} raises NotImplementedError"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node)
            ]
    assert not wrong


def test_constraints_name_no_host():
    text = (ROOT / "constraints.txt").read_text() + (ROOT / "pyproject.toml").read_text()
    assert "index-url" not in text
    assert "://" not in text
