"""How a run folder is started, and how one that is to be resumed is held to what it was started with."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from train.config import ConfigError, TrainingConfig, config_digest, dump_config, load_config
from train.durable import write_text
from train.provenance import Value, describe
from train.run import RunError
from train.system import System

FIRST_FILES = ("config.yaml", "provenance.json")


def open_folder(
    system: System,
    config: TrainingConfig,
    out: Path,
    *,
    data: Path,
    data_digest: str,
    product: str,
    resume: bool,
    files: tuple[str, ...] = (),
    write_files: Callable[[Path], Mapping[str, Value]] = lambda out: {},
) -> bool:
    """Starts a run folder, or checks that the one to resume is of the same settings and data; whether it is new.

    `write_files` writes what else belongs to a start, under the names `files`, and returns what provenance.json says of
    them. RunError says what is in the way.
    """
    if not (out / "config.yaml").exists():
        if out.exists() and any(not _is_of_a_start(path, (*FIRST_FILES, *files)) for path in out.iterdir()):
            raise RunError(f"{out} is not empty and is no run folder. Give --out a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        device = jax.devices()[0]
        provenance = {
            "system": system.name,
            "config_digest": config_digest(config),
            **describe(product, data_digest, f"{device.platform} {device.device_kind}"),
            **write_files(out),
        }
        write_text(out / "provenance.json", json.dumps(provenance, indent=2))
        header = [f"{system.name}, settings as resolved", *(f"{k}: {v}" for k, v in provenance.items())]
        write_text(out / "config.yaml", dump_config(config, header))
        return True
    if not resume:
        raise RunError(f"{out} holds a run already. Continue it with --resume, or give --out a new folder.")
    provenance = read_provenance(out)
    try:
        before = load_config(out / "config.yaml", system.schema)
    except ConfigError as error:
        raise RunError(f"{out} can't be resumed: {error}") from None
    for name, field in system.schema.model_fields.items():
        old, new = getattr(before, name), getattr(config, name)
        if old != new and not field.exclude:
            raise RunError(
                f"{out} was started with {name}: {old}, and is to go on with {name}: {new}. "
                f"Resume with --config {out / 'config.yaml'}, or give --out a new folder."
            )
    if provenance.get("data_digest") != data_digest:
        raise RunError(f"{out} was started on other images than {data} holds now. Give --out a new folder.")
    return False


def read_provenance(out: Path) -> dict[str, Any]:
    try:
        provenance: dict[str, Any] = json.loads((out / "provenance.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{out} can't be resumed: {error}") from None
    return provenance


def _is_of_a_start(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a start writes this file, or a part of it, before config.yaml: what a run killed at once may leave."""
    return path.name in names or any(path.name.startswith(f".{name}.") for name in names)
