"""The folder of bundles that may be named from outside; nothing beside it can be."""

import json
import re
from pathlib import Path

from edge_agent.bundle import MANIFEST, MAX_MANIFEST_BYTES, Bundle, BundleError, open_bundle, read_golden

NAME = r"^[A-Za-z0-9._-]{1,64}$"
MAX_LOOKED_AT = 1000  # folders


class NotOnTheShelf(ValueError):
    """models.folder has no such bundle; the text says what was looked for."""


class Shelf:
    """`models.folder`. Opening a bundle reads all of it, so it takes a while."""

    def __init__(self, folder: Path | None, public_key: Path | None):
        self.folder, self._public_key = folder, public_key

    def place(self, name: str) -> Path:
        """The path of the bundle's folder `name`; it is there, lies inside and is no link. NotOnTheShelf otherwise."""
        if self.folder is None:
            raise NotOnTheShelf("models.folder is not set in the agent's file, so no bundle can be named.")
        if not re.fullmatch(NAME, name) or name in (".", ".."):
            raise NotOnTheShelf("A bundle is named by the name of its folder in models.folder, not by a path.")
        path = self.folder / name
        if path.is_symlink() or not path.is_dir():
            raise NotOnTheShelf("models.folder has no folder of that name. Copy the bundle there first.")
        return path

    def version(self, product: str, version: int) -> Path:
        """The path of the one bundle that says to be this version of the product. NotOnTheShelf: none, or several."""
        if self.folder is None:
            raise NotOnTheShelf("models.folder is not set in the agent's file, so no version can be named.")
        try:
            folders = sorted(path for path in self.folder.iterdir() if re.fullmatch(NAME, path.name))
        except OSError as error:
            raise NotOnTheShelf(f"models.folder can't be listed ({error.strerror}).") from error
        found = [path for path in folders[:MAX_LOOKED_AT] if _says(path) == (product, version)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotOnTheShelf(f"models.folder has no bundle of that version of {product}. Copy it there first.")
        names = ", ".join(path.name for path in found[:3])
        raise NotOnTheShelf(f"models.folder has several bundles of that version of {product}: {names}. Name one.")

    def open(self, path: Path) -> Bundle:
        """Every file checked, the golden set too, and the signature where there is a key. BundleError otherwise."""
        bundle = open_bundle(path, public_key=self._public_key)
        read_golden(bundle)  # what doesn't unpack is refused before anything is loaded
        return bundle


def _says(folder: Path) -> tuple[str, int] | None:
    """Product and version by the manifest's own word, which nobody has checked."""
    manifest = folder / MANIFEST
    try:
        if folder.is_symlink() or manifest.is_symlink() or manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        fields = json.loads(manifest.read_bytes())
        return str(fields["name"]), int(fields["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BundleError):
        return None
