"""Verdicts and frames for the spool, and what must hold of every spool on disk."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_agent.messages import Model, Result
from edge_agent.spool.store import UNFINISHED

MODEL = Model(name="dots", version=3, digest="d" * 64, system="tiny")


def verdict(number: int, score: float | None = 0.5, **changes: Any) -> Result:
    """Of part `number` of the camera top: pass up to 1.0, reject above, unknown without a score."""
    word = "unknown" if score is None else "pass" if score <= 1.0 else "reject"
    fields: dict[str, Any] = {
        "device": "press-7", "camera": "top", "boot": 7, "ts": "2026-01-31T12:00:00.000000Z",
        "result_id": f"press-7.top.7.{number}", "sequence": number, "part": f"{number:03}.png", "ts_mono_ns": number,
        "time_sync": "ok", "verdict": word, "reason": "not_finite" if score is None else None, "detail": None,
        "image_score": score, "threshold": 1.0, "raw_score": score, "model": MODEL, "image": None, "latency_ms": 1.0,
    }  # fmt: skip
    return Result(**{**fields, **changes})


def picture(number: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """uint8 [h, w, 3] RGB noise of its own."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [h, w, 3], by OpenCV alone."""
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def assert_whole(folder: Path) -> dict[str, dict[str, Any]]:
    """Every visible image decodes and has a line, and no name is twice in a place. The lines, by their images' path."""
    found: dict[str, dict[str, Any]] = {}
    names: list[str] = []
    for path in sorted(folder.glob("*/*/*/*")):
        if path.name.endswith(UNFINISHED):
            assert path.name.startswith(".")  # hidden
            continue
        assert read_rgb(path) is not None, path
        lines = [json.loads(line) for line in (path.parents[1] / "frames.jsonl").read_text().splitlines()]
        (line,) = [line for line in lines if line["file"] == f"{path.parent.name}/{path.name}"]
        assert path.name == f"{line['result_id']}.png"
        found[path.relative_to(folder).as_posix()] = line
        names.append(f"{path.parents[1]}/{path.name}")
    assert len(set(names)) == len(names)
    return found
