"""What `edge_agent check` says about `models` of the agent's file: the shelf, and what serves in the file's place."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_agent.bundle import Bundle, BundleError
from edge_agent.config import AgentConfig
from edge_agent.models.boot import refusal
from edge_agent.models.judge import name_of
from edge_agent.models.record import read_record
from edge_agent.models.shelf import NAME, Shelf

Said = tuple[str, str, int]  # subject, sentence, exit code


def check_models(config: AgentConfig, bundles: Mapping[Path, Bundle]) -> Iterator[Said]:
    """bundles: those of the file that open, by their folders."""
    yield from _check_record(config, bundles)
    if config.models.folder is not None:
        yield from _check_shelf(config, config.models.folder)


def _check_record(config: AgentConfig, bundles: Mapping[Path, Bundle]) -> Iterator[Said]:
    record, trouble = read_record(config.models.record, set_aside=False)
    if trouble is not None:
        yield "models", f"{trouble} The next start takes the bundle of the file.", 1
    for key, folder in config.bundles.items():
        entry, bundle = record.get(key), bundles.get(folder)
        if entry is None or bundle is None or bundle.digest == entry.serving.digest:
            continue
        serving, where = entry.serving, f"models {name_of(key)}"
        if bundle.digest == entry.configured.digest:
            yield where, f"a command has brought {serving.name} version {serving.version}: {serving.folder} serves", 0
        elif not config.models.allow_older and (why := refusal(bundle, entry)) is not None:
            yield where, f"{why} Version {serving.version} serves on.", 2
        else:
            yield where, f"the file has changed: it takes over from {serving.name} version {serving.version}", 0


def _check_shelf(config: AgentConfig, folder: Path) -> Iterator[Said]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        yield "models", f"{folder} can't be listed ({error.strerror}). Make the folder, or correct models.folder.", 2
        return
    if not config.commands.enabled:
        yield "models", "no bundle can be named: commands.enabled is false", 0
    elif config.public_key is None:
        text = f"whoever can write to {folder} decides what is judged here: set public_key, and only signed ones serve"
        yield "models", text, 0
    shelf = Shelf(folder, config.public_key)
    for path in paths:
        if not path.is_dir():
            continue
        where = f"models {path.name}"
        if path.is_symlink() or not re.fullmatch(NAME, path.name):
            text = "can't be named: it is a link, or has another name than letters, digits, `.`, `_`, `-` (at most 64)"
            yield where, f"{path} {text}. Copy the bundle itself there.", 1
            continue
        try:
            bundle = shelf.open(path)
        except BundleError as error:
            yield where, str(error), 1
            continue
        manifest = bundle.manifest
        yield where, f"{path} is whole: {manifest.name} version {manifest.version} ({manifest.system})", 0
