"""A line whose bundles are signed and lie on a shelf (`models.folder`), and bundles to put there: sound and broken."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from commander import line_with_commands
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosquitto import Mosquitto
from tiny_bundle import (
    golden_arrays,
    manifest_fields,
    parts,
    tiny_model,
    write_bundle,
    write_manifest,
    write_public_key,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def put(shelf: Path, name: str, version: int, /, *, key: Ed25519PrivateKey | None = KEY, **changes: Any) -> Path:
    """A bundle as good as the one in service, but for `changes`."""
    model = changes.pop("model", None) or tiny_model()
    return write_bundle(shelf / name, model=model, key=key, version=version, **changes)


def put_other(shelf: Path, name: str, version: int, threshold: float) -> Path:
    """Sound, with another threshold: it agrees with its own golden set, and not with the verdicts of the others."""
    arrays = golden_arrays(parts())
    arrays["image_score"] = arrays["raw_score"] / np.float32(threshold)
    packed = BytesIO()
    np.savez(packed, **arrays)
    folder, files = (
        shelf / name,
        {"model.onnx": tiny_model(threshold=threshold), "golden/golden.npz": packed.getvalue()},
    )
    thresholds = {**manifest_fields()["thresholds"], "image": threshold}
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    digests = {path: sha256(data).hexdigest() for path, data in files.items()}
    write_manifest(folder, {"sha256": digests, **manifest_fields(version=version, thresholds=thresholds)}, KEY)
    return folder


def with_file(folder: Path, name: str, data: bytes) -> Path:
    """The bundle with other bytes in one of its files, and signed for it."""
    import json

    fields = json.loads((folder / "manifest.json").read_bytes())
    (folder / name).write_bytes(data)
    fields["sha256"][name] = sha256(data).hexdigest()
    write_manifest(folder, fields, KEY)
    return folder


def line_with_models(folder: Path, broker: Mosquitto, *, models: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The agent's file: version 3 of `dots` serves, `models/` is the shelf, all is signed."""
    shelf = folder / "models"
    shelf.mkdir(exist_ok=True)
    public = write_public_key(folder / "key.pub", KEY)
    config = line_with_commands(
        folder, broker, public_key=public.name, models={"folder": "models", **(models or {})}, **changes
    )
    write_bundle(folder / "bundle", model=tiny_model(), key=KEY)
    return config
