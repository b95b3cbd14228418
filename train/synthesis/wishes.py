"""What a user may ask of a generator that draws in many steps, beside what, where and how many."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from train.config import ConfigError


@dataclass(frozen=True)
class Wishes:
    """None: as the run's settings have it, or as the generator sees fit. A field is named as its option."""

    prompt: str | None = None  # a template: {object}, {defect}
    shape: Path | None = None  # a mask or a folder of them: what a defect looks like, to be turned and placed
    trimap: Path | None = None  # a trimap or a folder of them: where it is, and where the part
    guidance: float | None = None
    stages: str | None = None
    adaptation: int | None = None  # iterations
    renoise: str | None = None
    batch: int | None = None  # images that are drawn at once
    sheets: bool = False  # a picture of every stage beside each image

    @property
    def given(self) -> dict[str, Any]:
        """Those that a user has, by the names of their options."""
        return {
            f"--{field.name}": value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value is not False
        }


def refuse_wishes(wishes: Wishes, system: str) -> None:
    """ConfigError where there are any, for what draws in one pass."""
    for option in wishes.given:
        raise ConfigError(f"{option} has no meaning for {system}, which draws in a single pass. Leave it out.")
