"""A small line for tests: parts, the tiny bundle, the agent's file, and the agent as a process of its own."""

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_bundle
import yaml

from edge_agent.__main__ import main

ROOT = Path(__file__).parents[2]


def draw_parts(folder: Path, images: np.ndarray) -> Path:
    """uint8 [n, h, w, 3] RGB to 000.png, 001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:03}.png"), image[..., ::-1])
    return folder


def make_line(folder: Path, *, port: int, parts: int | dict[str, Any] = 10, **changes: Any) -> Path:
    """Write bundle, parts and agent.yaml; `changes` replace sections, e.g. mqtt={"username": "u"} adds to mqtt.

    parts: how many pictures, or the section of that name.
    """
    if isinstance(parts, dict):
        changes["parts"], parts = parts, 10
    tiny_bundle.write_bundle(folder / "bundle", model=tiny_bundle.tiny_model())
    draw_parts(folder / "parts", tiny_bundle.parts(parts))
    config: dict[str, Any] = {
        "device": "press-7",
        "bundle": "bundle",
        "topic": {"site": "plant", "line": "l1", "station": "s1"},
        "cameras": {"top": {"kind": "folder", "path": "parts"}},
        "engine": {"kind": "onnxruntime", "threads": 1},
        "mqtt": {"host": "127.0.0.1", "port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.5},
    }
    for name, value in changes.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def agent(*arguments: str | Path, cwd: Path = ROOT, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run the agent's command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As `agent`, in this process: faster, for what starts no threads of its own and takes no signals."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


def running(pid: int) -> bool:
    """Is it there, and no zombie that nobody has collected yet?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class RunningAgent:
    """`run --json` as a process of its own; what it prints and logs is collected as it comes."""

    def __init__(self, config: Path, *, program: Sequence[str] = ("-m", "edge_agent")):
        self.printed: list[str] = []
        self.logged: list[str] = []
        self._changed = threading.Condition()
        command = [sys.executable, *program, "run", "--config", str(config), "--json"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        pipes = ((self._process.stdout, self.printed), (self._process.stderr, self.logged))
        self._readers = [threading.Thread(target=self._collect, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "RunningAgent":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGKILL)
        self._close()

    def _collect(self, pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def given(self) -> list[dict[str, Any]]:
        """The verdicts that it printed: durable, every one. A line cut off by a kill is none."""
        return [json.loads(line) for line in list(self.printed) if line.endswith("}\n")]

    @property
    def log(self) -> str:
        return "".join(self.logged)

    def wait_for(self, happened: Callable[["RunningAgent"], bool], timeout: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: happened(self), timeout), self.log

    def wait_given(self, more: int) -> None:
        """Until it has given so many more verdicts."""
        goal = len(self.printed) + more
        self.wait_for(lambda agent: len(agent.printed) >= goal)

    def wait(self, timeout: float) -> int:
        """Until it has ended by itself; the exit code."""
        code = self._process.wait(timeout)
        self._close()
        return code

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._close()
        return code

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(60)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
