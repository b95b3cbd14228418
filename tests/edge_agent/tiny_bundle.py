"""A bundle small enough for tests: its score is the largest grey value of the part, over the threshold 100."""

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SIZE = (12, 16)  # height, width
THRESHOLD, PIXEL_THRESHOLD = 100.0, 50.0


def tiny_model(
    *, threshold: float = THRESHOLD, dtype: str = "UINT8", batch: int | str = "batch", opset: int = 18
) -> bytes:
    """The ONNX graph of the tiny detector."""
    import onnx
    from onnx import TensorProto, helper

    height, width = SIZE
    number = TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["colour"], to=number),
        helper.make_node("ReduceMean", ["colour", "channel"], ["grey"], keepdims=0),
        helper.make_node("Div", ["grey", "pixel_threshold"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["grey", "plane"], ["raw_score"], keepdims=0),
        helper.make_node("Div", ["raw_score", "image_threshold"], ["image_score"]),
    ]
    constants = [
        helper.make_tensor("channel", TensorProto.INT64, [1], [3]),
        helper.make_tensor("plane", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("pixel_threshold", number, [], [PIXEL_THRESHOLD]),
        helper.make_tensor("image_threshold", number, [], [threshold]),
    ]
    inputs = [helper.make_tensor_value_info("image", getattr(TensorProto, dtype), [batch, height, width, 3])]
    outputs = [
        helper.make_tensor_value_info("image_score", number, [batch]),
        helper.make_tensor_value_info("anomaly_map", number, [batch, height, width]),
        helper.make_tensor_value_info("raw_score", number, [batch]),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(onnx.load_from_string(model.SerializeToString()).SerializeToString())


def parts(n: int = 16, seed: int = 0) -> np.ndarray:
    """uint8 [n, 12, 16, 3]: dark noise with one brighter dot each, so that half of them lie above the threshold."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (n, *SIZE, 3), dtype=np.uint8)
    images[:, 3, 5] = np.linspace(60, 141, n).astype(np.uint8)[:, None]
    return images


def golden_arrays(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the tiny detector should say, computed by NumPy."""
    grey = images.astype(np.float32).mean(axis=3, dtype=np.float32)
    raw = grey.max(axis=(1, 2))
    return {
        "images": images,
        "image_score": raw / np.float32(THRESHOLD),
        "raw_score": raw,
        "anomaly_map": grey / np.float32(PIXEL_THRESHOLD),
    }


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """The manifest of the tiny bundle without sha256, as JSON has it."""
    height, width = SIZE
    score = {"dtype": "float32", "unit": "image threshold"}
    fields: dict[str, Any] = {
        "format": 1,
        "kind": "detector",
        "system": "tiny",
        "name": "dots",
        "version": 3,
        "created": "2026-01-31T12:00:00Z",
        "image": {"name": "image", "shape": ["batch", height, width, 3], "dtype": "uint8", "unit": "sRGB 0..255"},
        "outputs": [
            {"name": "image_score", "shape": ["batch"], **score},
            {"name": "anomaly_map", "shape": ["batch", height, width], "dtype": "float32", "unit": "pixel threshold"},
            {"name": "raw_score", "shape": ["batch"], "dtype": "float32", "unit": "grey value"},
        ],
        "preprocessing": {"width": width, "height": height, "crop": None, "resize": "area"},
        "score": "Raw: the largest grey value. Normalised: raw over the image threshold.",
        "thresholds": {
            "image": THRESHOLD,
            "pixel": PIXEL_THRESHOLD,
            "target_false_reject_rate": 0.01,
            "supported_false_reject_rate": 0.01,
            "false_reject_rate_interval": [0.0, 0.05],
            "pixel_quantile": 0.999,
            "n_held_out": 100,
            "rule": "Chosen by hand for tests.",
        },
        "precision": "fp32",
        "limits": {"map_error": 1e-4, "score_error": 1e-4, "verdict_flips": 0},
        "measured": {"map_error": 1e-6},
        "opset": 18,
        "provenance": {"commit": "0000000", "seed": 0, "lowest_loss": None},
    }
    return {**fields, **changes}


def write_bundle(
    folder: Path, *, model: bytes = b"no model is run here", key: Ed25519PrivateKey | None = None, **changes: Any
) -> Path:
    """Write a sound bundle, but for `changes` to manifest fields (or to sha256); signed where there is a key."""
    packed = BytesIO()
    np.savez(packed, **golden_arrays(parts()))
    files = {"model.onnx": model, "golden/golden.npz": packed.getvalue()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    write_manifest(folder, {"sha256": digests, **manifest_fields(**changes)}, key)
    return folder


def write_manifest(folder: Path, fields: Any, key: Ed25519PrivateKey | None = None) -> None:
    """manifest.json, and its signature where there is a key."""
    data = json.dumps(fields, indent=1).encode()
    (folder / "manifest.json").write_bytes(data)
    if key is not None:
        (folder / "signature").write_bytes(key.sign(data))


def write_public_key(path: Path, key: Ed25519PrivateKey) -> Path:
    """The public half in PEM, as `export keygen` writes it."""
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def assert_scores_are_the_models(engine, n: int) -> None:
    """Of a batch of `n` parts: types and values of what NumPy makes of them."""
    images = parts(n, seed=n)
    scores, right = engine.run(images), golden_arrays(images)
    assert [array.dtype for array in scores] == [np.float32] * 3
    for name, array in scores._asdict().items():
        np.testing.assert_allclose(array, right[name], rtol=1e-6)
