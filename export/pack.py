"""Packs a bundle: model, golden set, manifest and signature in a folder that appears whole or not at all."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.bundle import (
    FORMAT,
    GOLDEN,
    MANIFEST,
    MODEL,
    SIGNATURE,
    Bundle,
    Golden,
    Manifest,
    Thresholds,
    open_bundle,
)
from export.detector import LineScorer, lower_detector, tensor_specs
from export.errors import InputError
from export.golden import golden_set
from export.lower import OPSET
from export.parity import LIMITS, Parity, hold, measure
from train.config import config_digest
from train.run import TrainedRun, thresholds_of

PRECISIONS = tuple(LIMITS)  # that this version writes


@dataclass(frozen=True)
class Packed:
    """What `pack` made."""

    bundle: Bundle
    nodes: int
    parity: Parity
    is_signed: bool


def check_request(out: Path, precision: str, version: int) -> None:
    """Refuses what can be refused before any work is done; raises InputError."""
    if precision not in PRECISIONS:
        raise InputError(
            f"--precision {precision} is not written by this version; it writes {', '.join(PRECISIONS)}. "
            "fp16 and int8 come with a later one."
        )
    if version < 1:
        raise InputError(f"--version is {version}; versions of a product count from 1 upwards.")
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already. A bundle is never changed or overwritten: take another --out.")


def pack(
    run: TrainedRun,
    out: Path,
    *,
    precision: str = "fp32",
    key: Ed25519PrivateKey | None = None,
    version: int = 1,
    name: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Lowers a run, holds ONNX Runtime to JAX on the golden set, and writes the bundle.

    Args:
        out: the folder to write; it must not exist.
        key: signs the manifest.
        version: of the product's bundles; devices refuse older ones than they run.
        name: of the product; by default the run's.
        on_progress: (done, total) images scored for the golden set.

    Raises:
        InputError, RunError: the request or the run can't be used.
        LoweringError: an operation has no ONNX form here.
        ExportError: ONNX Runtime's answers differ from JAX's beyond the limits.
    """
    check_request(out, precision, version)
    thresholds = thresholds_of(run)
    scorer = LineScorer(run, thresholds)
    proto = lower_detector(run, scorer)
    model = proto.SerializeToString()
    golden = golden_set(run, scorer, on_progress)
    limits = LIMITS[precision]
    parity = measure(model, golden)
    hold(parity, limits, str(run.folder))
    files = {MODEL: model, GOLDEN: _packed(golden)}
    image, outputs = tensor_specs(run)
    manifest = Manifest.model_validate(
        {
            "format": FORMAT,
            "kind": "detector",
            "system": run.system,
            "name": name or run.product,
            "version": version,
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "image": image,
            "outputs": outputs,
            "preprocessing": run.preprocessing,
            "score": f"{run.score_definition} image_score = raw score / image threshold; anomaly_map = raw map / pixel "
            "threshold.",
            "thresholds": Thresholds.model_validate(thresholds.model_dump()),
            "precision": precision,
            "limits": limits,
            "measured": parity.as_numbers(),
            "opset": OPSET,
            "provenance": _provenance(run),
            "sha256": {path: sha256(data).hexdigest() for path, data in files.items()},
        }
    )
    files[MANIFEST] = (manifest.model_dump_json(indent=2) + "\n").encode()
    if key is not None:
        files[SIGNATURE] = key.sign(files[MANIFEST])
    with _appearing(out) as folder:
        for path, data in files.items():
            _write(folder / path, data)
        open_bundle(folder)  # what the reader would refuse never gets its name
    return Packed(open_bundle(out), len(proto.graph.node), parity, key is not None)


def _provenance(run: TrainedRun) -> dict[str, str | int | float | None]:
    """The training's, and what `export evaluate` and a reader need to know of the export."""
    return {
        **run.provenance,
        "seed": run.config.seed,
        "config_digest": config_digest(run.config),
        "scoring": run.scoring_mode,
        "checkpoint_step": run.step,
        **{f"export_version_{package}": installed_version(package) for package in ("jax", "onnx", "onnxruntime")},
    }


def _packed(golden: Golden) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=golden.images,
        image_score=golden.image_score,
        raw_score=golden.raw_score,
        anomaly_map=golden.anomaly_map,
    )
    return buffer.getvalue()


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name when everything in it is on the disk; gone if anything fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        folder.chmod(0o755)
        yield folder
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            _sync(path)
        if out.exists():
            raise InputError(f"{out} appeared while the bundle was made; it was left alone. Take another --out.")
        folder.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
