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
import onnx
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
from export.golden import golden_set, score_candidates
from export.lower import OPSET
from export.parity import LIMITS, Parity, at_export, hold, measure, undecided
from export.precision.convert import Converted, to_fp16, to_int8
from export.precision.loss import Candidates
from train.config import config_digest
from train.run import TrainedRun, thresholds_of

PRECISIONS = tuple(LIMITS)


@dataclass(frozen=True)
class Packed:
    """What `pack` made."""

    bundle: Bundle
    nodes: int
    parity: Parity
    is_signed: bool


def check_request(out: Path, precision: str, version: int, *, calibrated: bool) -> None:
    """Refuses what can be refused before any work is done; raises InputError.

    Args:
        calibrated: images are given to calibrate on.
    """
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision} is not known; it is one of {', '.join(PRECISIONS)}.")
    if precision == "int8" and not calibrated:
        raise InputError(
            "--precision int8 finds its ranges on good training images, which a run folder does not hold: add --data "
            "FOLDER, the one that the run was trained on."
        )
    if precision != "int8" and calibrated:
        raise InputError(f"--data is read for --precision int8 alone, and this is {precision}. Leave it out.")
    if version < 1:
        raise InputError(f"--version is {version}; versions of a product count from 1 upwards.")
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already. A bundle is never changed or overwritten: take another --out.")


def pack(
    run: TrainedRun,
    out: Path,
    *,
    precision: str = "fp32",
    calibration: np.ndarray | None = None,
    key: Ed25519PrivateKey | None = None,
    version: int = 1,
    name: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Lowers a run, holds ONNX Runtime to JAX on the golden set, and writes the bundle.

    Args:
        out: the folder to write; it must not exist.
        calibration: good training images, uint8 at model size, for int8.
        key: signs the manifest.
        version: of the product's bundles; devices refuse older ones than they run.
        name: of the product; by default the run's.
        on_progress: (done, total) images scored for the golden set.

    Raises:
        InputError, RunError: the request or the run can't be used.
        LoweringError: an operation has no ONNX form here.
        ExportError: ONNX Runtime's answers differ from JAX's beyond the limits, or the precision can't keep its own.
    """
    check_request(out, precision, version, calibrated=calibration is not None)
    if run.detector.server_only:
        raise InputError(f"{run.folder} can't be packed for devices. {run.detector.server_only}")
    thresholds = thresholds_of(run)
    scorer = LineScorer(run, thresholds)
    lowered = lower_detector(run, scorer)
    candidates = score_candidates(run, scorer, on_progress)
    golden = golden_set(candidates, undecided(precision))
    hold(measure(lowered.SerializeToString(), golden), LIMITS["fp32"], str(run.folder))
    converted = _in_precision(lowered, precision, candidates, calibration)
    proto = lowered if converted is None else converted.model
    model = proto.SerializeToString()
    parity = measure(model, golden)
    hold(parity, at_export(precision), str(run.folder))
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
            "limits": LIMITS[precision],
            "measured": parity.as_numbers(),
            "precision_loss": None if converted is None else converted.loss,
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


def _in_precision(
    lowered: onnx.ModelProto, precision: str, candidates: Candidates, calibration: np.ndarray | None
) -> Converted | None:
    """None for float32, which the graph is in already."""
    if precision == "fp16":
        return to_fp16(lowered, candidates)
    return None if calibration is None else to_int8(lowered, candidates, calibration)


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
