"""The bundle: the one thing that export hands to the agent. The reader owns the format.

    BUNDLE/manifest.json        everything below, and the sha256 of every other file
           model.onnx           uint8 [batch, height, width, 3] -> image_score, anomaly_map, raw_score
           golden/golden.npz    images and the scores that float32 JAX gives them
           signature            Ed25519 over manifest.json's exact bytes, 64 raw bytes (optional)

A bundle is immutable. Its digest, the sha256 of manifest.json, names its whole content.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.preprocess import Preprocessing

FORMAT = 1
MANIFEST, MODEL, GOLDEN, SIGNATURE = "manifest.json", "model.onnx", "golden/golden.npz", "signature"
MAX_MANIFEST_BYTES = 2**20
MAX_GOLDEN_BYTES = 2**30  # unpacked; a zip bomb is refused by its directory


class BundleError(ValueError):
    """A bundle that must not be used; the message says which file, what was found, what is right and what to do."""


class _Part(BaseModel):
    """What all parts of a manifest have in common: no unknown field, no change, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorSpec(_Part):
    name: str
    shape: tuple[int | str, ...]  # a name stands for a size that may vary: ("batch", 256, 256, 3)
    dtype: str
    unit: str


class Thresholds(_Part):
    """Limits in raw units, fitted on held-out good images, and what their number supports."""

    image: float = Field(gt=0)
    pixel: float = Field(gt=0)
    target_false_reject_rate: float = Field(ge=0, le=1)
    supported_false_reject_rate: float = Field(ge=0, le=1)
    false_reject_rate_interval: tuple[float, float]
    pixel_quantile: float = Field(ge=0, le=1)
    n_held_out: int = Field(ge=0)
    rule: str  # how they were fitted, a sentence


class Limits(_Part):
    """How far an engine may differ from golden/; `engines/golden.py` measures it."""

    map_error: float = Field(ge=0)  # max |map - golden| over the range (max - min) of all golden maps
    score_error: float = Field(ge=0)  # max |score - golden| / max(1, golden), normalised; raw: over the largest golden
    verdict_flips: int = Field(ge=0)  # images on the other side of 1.0 than golden/ has them, ties apart


class GivenBack(_Part):
    """A node of the graph that stayed in, or returned to, float32 although the precision is lower."""

    node: str
    reason: Literal["overflow", "accuracy"]  # a value too large for float16; or what it alone costs, below
    peak: float | None = None  # the largest value seen
    map_error: float | None = None  # as in Limits, with this layer alone in the precision, on some of the images
    score_error: float | None = None


class PrecisionLoss(_Part):
    """What fp16 or int8 costs against float32, on held-out good images and their copies with a drawn stain.

    Measured at export with ONNX Runtime; for errors and flips see Limits.
    """

    n_good: int = Field(ge=0)
    n_stained: int = Field(ge=0)
    image_auroc_float32: float = Field(ge=0, le=1)  # of good images against stained ones
    image_auroc: float = Field(ge=0, le=1)  # the same in this precision
    verdict_flips: int = Field(ge=0)
    map_error: float = Field(ge=0)
    score_error: float = Field(ge=0)
    layers: int = Field(ge=0)  # that carry weights
    given_back: tuple[GivenBack, ...]  # dearest first


class Manifest(_Part):
    """manifest.json: all that export promises and the agent relies on; nothing by word of mouth."""

    format: Literal[1]
    kind: Literal["detector", "generator"]
    system: str = Field(min_length=1)
    name: str = Field(min_length=1)  # the product
    version: int = Field(ge=1)  # rises per product
    created: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")  # RFC 3339, UTC
    image: TensorSpec
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    score: str  # what raw and normalised score are, a sentence
    thresholds: Thresholds
    precision: Literal["fp32", "fp16", "int8"]
    limits: Limits
    measured: dict[str, float]  # largest differences between ONNX Runtime and JAX, found at export
    precision_loss: PrecisionLoss | None = None  # of fp16 and int8
    opset: int
    provenance: dict[str, str | int | float | None]
    sha256: dict[str, str]  # relative POSIX path -> hex digest of every file but manifest.json and signature

    @model_validator(mode="after")
    def _tensors_fit_together(self) -> "Manifest":
        if self.kind != "detector":
            return self
        size = (self.preprocessing.height, self.preprocessing.width)
        found = {(self.image.name, self.image.dtype, self.image.shape[1:])}
        found |= {(tensor.name, tensor.dtype, tensor.shape[1:]) for tensor in self.outputs}
        right = {("image", "uint8", (*size, 3)), ("anomaly_map", "float32", size)}
        right |= {("image_score", "float32", ()), ("raw_score", "float32", ())}
        if found != right:
            raise ValueError(f"its tensors are {sorted(map(str, found))}, but a detector has {sorted(map(str, right))}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was checked when it was opened."""

    folder: Path
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex: the content address

    def read(self, name: str) -> bytes:
        """The bytes of one listed file, checked again: what is returned is what was signed, whatever happened since."""
        data = _read(self.folder / name)
        _check_digest(self.folder / name, sha256(data).hexdigest(), self.manifest.sha256[name])
        return data


@dataclass(frozen=True)
class Golden:
    """Held-out and corrupted images, and what the float32 JAX model makes of them (scores in the bundle's units)."""

    images: np.ndarray  # uint8 [n, height, width, 3]
    image_score: np.ndarray  # float32 [n], normalised: 1.0 is the threshold
    raw_score: np.ndarray  # float32 [n]
    anomaly_map: np.ndarray  # float32 [n, height, width], normalised (stored as float32 or float16)


def open_bundle(folder: Path, *, public_key: Path | None = None, not_older_than: int | None = None) -> Bundle:
    """Check everything that can be checked without running the model; refuse with a BundleError.

    public_key: PEM file of the Ed25519 key that must have signed it; None accepts unsigned bundles.
    not_older_than: version in service; an older one is refused.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder. Give the folder that `export bundle --out` wrote.")
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if MANIFEST not in files:
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it is not a bundle. Copy the whole folder that export wrote."
        )
    data = _read(files[MANIFEST], MAX_MANIFEST_BYTES)
    if public_key is not None:
        _check_signature(data, files.get(SIGNATURE), folder, public_key)
    manifest = _parse(data, files[MANIFEST])
    if not_older_than is not None and manifest.version < not_older_than:
        raise BundleError(
            f"{folder} is version {manifest.version} of {manifest.name}, but version {not_older_than} is in service. "
            "An older bundle is refused; export it again under a higher --version."
        )
    _check_files(folder, files, manifest)
    return Bundle(folder, manifest, sha256(data).hexdigest())


def read_golden(bundle: Bundle) -> Golden:
    """golden/golden.npz, checked for names, shapes, types and finite numbers; nothing is unpickled."""
    path, size = bundle.folder / GOLDEN, (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    try:
        packed = io.BytesIO(bundle.read(GOLDEN))
        with zipfile.ZipFile(packed) as directory:
            if (unpacked := sum(member.file_size for member in directory.infolist())) > MAX_GOLDEN_BYTES:
                raise BundleError(f"{path} unpacks to {unpacked} bytes, more than {MAX_GOLDEN_BYTES}. Export it again.")
        with np.load(packed, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each have their own for bytes that were made to hurt
        raise BundleError(f"{path} is not a readable npz file ({error}). Export the bundle again.") from error
    n = len(found["images"]) if found.get("images") is not None and found["images"].ndim else 0
    right = {
        "images": ((n, *size, 3), ("uint8",)),
        "image_score": ((n,), ("float32",)),
        "raw_score": ((n,), ("float32",)),
        "anomaly_map": ((n, *size), ("float32", "float16")),
    }
    if n == 0 or found.keys() != right.keys():
        raise BundleError(
            f"{path} holds {sorted(found)} with {n} images; it must hold {sorted(right)} with at least 1."
        )
    for name, (shape, dtypes) in right.items():
        if found[name].shape != shape or found[name].dtype.name not in dtypes:
            raise BundleError(
                f"{path}: {name} is {found[name].dtype} {list(found[name].shape)}; the manifest asks for "
                f"{' or '.join(dtypes)} {list(shape)}. Export the bundle again."
            )
        if not np.isfinite(found[name]).all():
            raise BundleError(f"{path}: {name} holds NaN or infinity. Export the bundle again from a sound run.")
    found["anomaly_map"] = found["anomaly_map"].astype(np.float32, copy=False)
    return Golden(**found)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`; a link, a socket or a device is refused, for nothing outside may become part of it."""
    try:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(
                    f"{path} is a link or a special file. A bundle holds plain files only; copy it again."
                )
            if path.is_dir():
                yield from _files(path)
            else:
                yield path
    except OSError as error:
        raise BundleError(f"{folder} can't be listed ({error.strerror}). Check its permissions.") from error


def _read(path: Path, limit: int | None = None) -> bytes:
    try:
        if limit is not None and (size := path.stat().st_size) > limit:
            raise BundleError(f"{path} has {size} bytes, more than {limit}. It was not written by export.")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}). Copy the whole bundle again.") from error


def _check_signature(manifest: bytes, signature: Path | None, folder: Path, public_key: Path) -> None:
    key = read_public_key(public_key)
    if signature is None:
        raise BundleError(f"{folder} is unsigned, but {public_key} is set. Export it with --sign KEY.")
    try:
        key.verify(_read(signature, limit=64), manifest)
    except InvalidSignature:
        raise BundleError(
            f"{signature} does not fit {MANIFEST}: the bundle was altered, or signed with another key than the one "
            f"that belongs to {public_key}. Copy it again, or export it with --sign and the right key."
        ) from None


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM (SubjectPublicKeyInfo), as `export keygen` writes it; else a BundleError."""
    data = _read_key(path)
    if b"PRIVATE KEY" in data:
        raise BundleError(f"{path} is a private key. A device needs the public one only; keep the private key off it.")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BundleError(
            f"{path} is not a public key in PEM. Give the .pub file that `export keygen` wrote."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path} is not an Ed25519 key. Give the .pub file that `export keygen` wrote.")
    return key


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}, the public key, can't be read ({error.strerror}). Check public_key.") from error


def _parse(data: bytes, path: Path) -> Manifest:
    again = "Copy the whole bundle again, or export it again."
    try:
        fields: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}). {again}") from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise BundleError(
            f"{path} has bundle format {found!r}; this agent reads format {FORMAT}. Update the agent, or export the "
            "bundle with the matching release."
        )
    if fields.get("kind") == "generator":
        raise BundleError(f"{path} is of a generator, which judges nothing. Give the bundle of a detector.")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        where = ".".join(map(str, first["loc"])) or "the whole"
        others = f" (and {more} more)" if more else ""
        raise BundleError(f"{path}: {where}: {first['msg']}{others}. {again}") from error


def _check_files(folder: Path, files: dict[str, Path], manifest: Manifest) -> None:
    listed = set(manifest.sha256)
    for name in sorted(listed):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or "\\" in name or "\0" in name:
            raise BundleError(f"{folder / MANIFEST} lists {name!r}, which is no plain path inside the bundle. Refused.")
    for name in (MODEL, GOLDEN):
        if name not in listed:
            raise BundleError(f"{folder / MANIFEST} does not list {name}, which every bundle has. Export it again.")
    present = files.keys() - {MANIFEST, SIGNATURE}
    if missing := sorted(listed - present):
        raise BundleError(f"{folder / missing[0]} is missing. Copy the whole bundle again.")
    if extra := sorted(present - listed):
        raise BundleError(f"{folder / extra[0]} is not listed in {MANIFEST}. Delete it, or copy the bundle again.")
    for name in sorted(listed):
        _check_digest(files[name], _digest(files[name]), manifest.sha256[name])


def _digest(path: Path) -> str:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}). Copy the whole bundle again.") from error
    return digest.hexdigest()


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise BundleError(
            f"{path} changed after export (sha256 {found[:12]}, {MANIFEST} says {expected[:12]}). "
            "Copy the whole bundle again."
        )
