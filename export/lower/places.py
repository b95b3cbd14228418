"""Where in the model an operation comes from: JAX keeps the Python frames and named scopes of every operation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from jax.extend import source_info_util

_FRAME = re.compile(r"^(?P<file>.+?):(?P<line>\d+)(:\d+)? \((?P<function>.+)\)$")
_LIBRARY = re.compile(r"[\\/](site-packages|dist-packages)[\\/]")
_OURS = str(Path(__file__).resolve().parents[1])
_MOST_FRAMES = 32


class Frame(NamedTuple):
    file: str
    line: int
    function: str  # qualified: Encoder.__call__

    @property
    def in_library(self) -> bool:
        return _LIBRARY.search(self.file) is not None

    @property
    def is_module(self) -> bool:
        return self.function.endswith(".__call__")


@dataclass(frozen=True)
class Place:
    """Where an operation stands: the model's Python frames, outermost first, and jax.named_scope's names."""

    frames: tuple[Frame, ...] = ()
    scope: str = ""  # encoder/level_2

    def inside(self, source_info: Any) -> Place:
        """The place of an operation that is called from here. Where JAX kept only its own frames, ours stand in."""
        frames = _frames(source_info)
        if all(frame.in_library for frame in frames):
            frames = self.frames
        return Place(frames, "/".join(filter(None, (self.scope, str(source_info.name_stack)))))

    @property
    def node_scope(self) -> str:
        """The prefix of ONNX node names: named scopes, then the modules and functions that run inside the traced one:
        'score/reconstruct/downsampling_conv', 'AESc/Conv'.
        """
        names = [_name(frame) for frame in self.frames[1:] if not frame.in_library or frame.is_module]
        return re.sub(r"[^A-Za-z0-9_./-]", "_", "/".join([*filter(None, [self.scope]), *names]))

    def __str__(self) -> str:
        """'train/model.py:88, in Encoder.__call__ (through Conv.__call__ of linear.py:889), scope encoder/level_2'."""
        places = [place for place, frame in enumerate(self.frames) if not frame.in_library]
        if not places:
            return "An unknown line of the model"
        own, *library = self.frames[places[-1] :]
        text = f"{own.file}:{own.line}, in {own.function}"
        if library:
            text += f" (through {library[0].function} of {PurePath(library[0].file).name}:{library[0].line})"
        return f"{text}, scope {self.scope}" if self.scope else text


def _frames(source_info: Any) -> tuple[Frame, ...]:
    """The Python frames of an operation below the traced function, JAX's own and ours left out."""
    found = []
    for text in source_info_util.summarize(source_info, num_frames=_MOST_FRAMES).splitlines():
        if (match := _FRAME.match(text)) and not match["file"].startswith(_OURS):
            found.append(Frame(match["file"], int(match["line"]), match["function"]))
    return tuple(found)


def _name(frame: Frame) -> str:
    parts = frame.function.split(".")
    return parts[-2] if frame.is_module else parts[-1].lstrip("_")
