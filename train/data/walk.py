"""Looking into folders: images below them, subfolders by name, and what file managers leave behind."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_agent.preprocess import IMAGE_SUFFIXES
from train.data.samples import DataError, Skipped, relative_name, shown

READABLE = "PNG, JPEG, BMP, TIFF or WebP"


def is_hidden(path: Path) -> bool:
    """Left behind by a file manager or an archive: .DS_Store, ._part.jpg, Thumbs.db, __MACOSX, @eaDir."""
    return path.name.startswith(".") or path.name.lower() in {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}


def unused(folders: list[Path], why: str) -> list[Skipped]:
    if not folders:
        return []
    count = sum(len(images(folder)) for folder in folders)
    names = listed(path.name for path in folders)
    return [
        Skipped(folders[0], f"{shown(folders[0].parent)}: {count} image{'s' * (count > 1)} in {names} not used: {why}.")
    ]


def loose(folder: Path, where: str) -> list[Skipped]:
    found = [path for path in visible(folder) if is_image(path)]
    if not found:
        return []
    which = "is not used: it has" if len(found) == 1 else f"and {len(found) - 1} more are not used: they have"
    put = "it" if len(found) == 1 else "them"
    return [Skipped(found[0], f"{shown(found[0])} {which} no label there. Put {put} {where}.")]


def near_miss(folder: Path) -> str:
    siblings = [path.name for path in visible(folder.parent)] if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f" Did you mean {shown(folder.parent / near[0])}?" if near else ""


def does_not_exist(folder: Path) -> DataError:
    return DataError(f"{shown(folder)} does not exist.{near_miss(folder) or ' Name a folder or file that is there.'}")


def images_or_error(folder: Path, what: str) -> list[Path]:
    if not (found := images(folder)):
        raise DataError(f"{shown(folder)} holds no {what}. Put images of good parts in it, as {READABLE}.")
    return found


def images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path."""
    return sorted(_below(folder, frozenset()), key=lambda path: relative_name(path, folder))


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder around it
        return
    for child in visible(folder):
        if child.is_dir():
            yield from _below(child, above | {here})
        elif is_image(child):
            yield child


def holding_images(folder: Path) -> list[Path]:
    return [child for child in subfolders(folder) if next(_below(child, frozenset()), None)]


def subfolders(folder: Path) -> list[Path]:
    return [child for child in visible(folder) if child.is_dir()]


def visible(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if not is_hidden(child)]


def child(folder: Path, name: str) -> Path | None:
    """The subfolder of that name, in upper or lower case."""
    found = [child for child in subfolders(folder) if child.name.lower() == name]
    if len(found) > 1:
        raise DataError(f"{shown(folder)} holds {listed(path.name for path in found)}. Make one folder of them.")
    return found[0] if found else None


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def listed(names: Iterable[str], most: int = 4) -> str:
    every = [f"{shown(name)}/" for name in names]
    shorter = every if len(every) <= most else [*every[: most - 1], f"{len(every) - most + 1} more"]
    return " and ".join([", ".join(shorter[:-1]), shorter[-1]] if len(shorter) > 1 else shorter)
