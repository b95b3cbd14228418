"""A bundle is read whole and untouched, or refused with a sentence."""

import json
import os
import shutil
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundle import golden_arrays, manifest_fields, parts, write_bundle, write_manifest, write_public_key

from edge_agent.bundle import BundleError, Manifest, open_bundle, read_golden

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def refusal(folder: Path, **options) -> str:
    with pytest.raises(BundleError) as error:
        open_bundle(folder, **options)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert str(folder) in sentence or any(str(value) in sentence for value in options.values())
    return sentence


def change_manifest(folder: Path, **changes) -> None:
    fields = json.loads((folder / "manifest.json").read_bytes())
    write_manifest(folder, {**fields, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, public key); not to be changed."""
    folder = tmp_path_factory.mktemp("signed")
    return write_bundle(folder / "bundle", key=KEY), write_public_key(folder / "line.pub", KEY)


def test_opens_and_tells_its_content_address(bundle):
    opened = open_bundle(bundle)
    assert opened.digest == sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert (opened.manifest.name, opened.manifest.version, opened.manifest.thresholds.image) == ("dots", 3, 100.0)
    assert opened.manifest.provenance == {"commit": "0000000", "seed": 0, "lowest_loss": None}
    assert opened.read("model.onnx") == b"no model is run here"


def test_manifest_survives_writing_and_reading(bundle):
    manifest = open_bundle(bundle).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@given(file=st.sampled_from(["manifest.json", "model.onnx", "golden/golden.npz", "signature"]), data=st.data())
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_one_changed_byte_of_a_signed_bundle_is_refused(signed, tmp_path_factory, file, data):
    bundle, public_key = signed
    content = bytearray((bundle / file).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    altered = tmp_path_factory.mktemp("altered") / "bundle"
    shutil.copytree(bundle, altered)
    (altered / file).write_bytes(content)
    refusal(altered, public_key=public_key)


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "golden/golden.npz"])
def test_truncated_or_missing_files_are_refused_without_a_key_too(bundle, file):
    content = (bundle / file).read_bytes()
    (bundle / file).write_bytes(content[:-1])
    refusal(bundle)
    (bundle / file).unlink()
    sentence = refusal(bundle)
    assert f"{file} is missing" in sentence or "has no manifest.json, so it is not a bundle" in sentence


def test_altered_file_names_both_digests(bundle):
    expected = sha256((bundle / "model.onnx").read_bytes()).hexdigest()[:12]
    (bundle / "model.onnx").write_bytes(b"another model")
    found = sha256(b"another model").hexdigest()[:12]
    sentence = refusal(bundle)
    assert f"model.onnx changed after export (sha256 {found}, manifest.json says {expected})." in sentence
    assert sentence.endswith("Copy the whole bundle again.")


def test_file_exchanged_after_opening_is_refused_when_read(bundle):
    opened = open_bundle(bundle)
    (bundle / "model.onnx").write_bytes(b"another model")
    with pytest.raises(BundleError, match=r"model\.onnx changed after export"):
        opened.read("model.onnx")
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx can't be read \(No such file or directory\)"):
        opened.read("model.onnx")


def test_extra_file_is_refused(bundle):
    (bundle / "golden" / "notes.txt").write_text("hello")
    assert "golden/notes.txt is not listed in manifest.json. Delete it" in refusal(bundle)


def test_link_and_special_file_are_refused(bundle, tmp_path):
    (bundle / "model.onnx").rename(tmp_path / "elsewhere")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert "model.onnx is a link or a special file" in refusal(bundle)
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")  # reading it would block for ever
    assert "model.onnx is a link or a special file" in refusal(bundle)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "golden/../../secret", "a\\b", "./model.onnx", "a//b", ""]
)
def test_names_that_leave_the_bundle_are_refused(bundle, name):
    fields = json.loads((bundle / "manifest.json").read_bytes())
    change_manifest(bundle, sha256={**fields["sha256"], name: "0" * 64})
    assert f"lists {name!r}, which is no plain path inside the bundle" in refusal(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "golden/golden.npz"])
def test_manifest_must_list_what_every_bundle_has(bundle, name):
    fields = json.loads((bundle / "manifest.json").read_bytes())
    del fields["sha256"][name]
    write_manifest(bundle, fields)
    assert f"does not list {name}, which every bundle has" in refusal(bundle)


@pytest.mark.parametrize("number", [2, 0, "1", None, True])
def test_unknown_format_says_which_one_is_read(bundle, number):
    change_manifest(bundle, format=number)
    assert f"has bundle format {number!r}; this agent reads format 1. Update the agent" in refusal(bundle)


def test_generator_is_refused(bundle):
    change_manifest(bundle, kind="generator", outputs=[], thresholds=None)
    assert "is of a generator, which judges nothing" in refusal(bundle)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"thresholds": {**manifest_fields()["thresholds"], "image": float("nan")}},
            "thresholds.image: Input should be",
        ),
        (
            {"thresholds": {**manifest_fields()["thresholds"], "pixel": 0}},
            "thresholds.pixel: Input should be greater than 0",
        ),
        ({"measured": {"map_error": float("inf")}}, "measured.map_error: Input should be a finite number"),
        ({"version": 0}, "version: Input should be greater than or equal to 1"),
        ({"speed": 11}, "speed: Extra inputs are not permitted"),
        ({"outputs": []}, "its tensors are"),
        ({"preprocessing": {"width": 17, "height": 12}}, "but a detector has"),
        ({"created": "yesterday"}, "created: String should match"),
        ({"precision": "int4", "version": 0}, "(and 1 more)"),
    ],
)
def test_manifest_field_that_makes_no_sense_is_named(bundle, changes, sentence):
    change_manifest(bundle, **changes)
    assert sentence in refusal(bundle)


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_manifest_that_is_no_manifest_is_refused(bundle, data):
    (bundle / "manifest.json").write_bytes(data)
    assert "manifest.json" in refusal(bundle)


def test_huge_manifest_is_refused_unread(bundle):
    with (bundle / "manifest.json").open("wb") as file:
        file.truncate(2**40)  # sparse; reading it would take a terabyte
    assert "has 1099511627776 bytes, more than 1048576" in refusal(bundle)


def test_older_version_is_refused(bundle):
    assert open_bundle(bundle, not_older_than=3).manifest.version == 3
    assert "is version 3 of dots, but version 4 is in service" in refusal(bundle, not_older_than=4)


def test_signed_bundle_opens_with_its_key_and_without(signed):
    bundle, public_key = signed
    assert open_bundle(bundle, public_key=public_key).digest == open_bundle(bundle).digest


def test_unsigned_bundle_is_refused_where_a_key_is_set(bundle, signed):
    assert "is unsigned, but" in refusal(bundle, public_key=signed[1])


def test_bundle_signed_with_another_key_is_refused(tmp_path, signed):
    other = write_bundle(tmp_path / "other", key=Ed25519PrivateKey.from_private_bytes(bytes(32)))
    assert "signed with another key" in refusal(other, public_key=signed[1])


def test_bad_key_files_are_told_apart(tmp_path, signed):
    bundle, key = signed[0], tmp_path / "key"
    assert "the public key, can't be read (No such file" in refusal(bundle, public_key=key)
    key.write_bytes(b"not a key")
    assert "is not a public key in PEM. Give the .pub file" in refusal(bundle, public_key=key)
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "is a private key. A device needs the public one only" in refusal(bundle, public_key=key)
    write_public_key(key, generate_private_key(SECP256R1()))
    assert "is not an Ed25519 key" in refusal(bundle, public_key=key)


def test_what_is_no_folder_is_refused(tmp_path, bundle):
    assert "is not a folder" in refusal(tmp_path / "nowhere")
    assert "is not a folder" in refusal(bundle / "model.onnx")
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json, so it is not a bundle" in refusal(tmp_path / "empty")


def with_golden(folder: Path, **changes) -> Path:
    """The bundle with other golden arrays (None: left out), listed as they should be."""
    packed = BytesIO()
    arrays = {**golden_arrays(parts()), **changes}
    np.savez(packed, **{name: array for name, array in arrays.items() if array is not None})
    return with_golden_bytes(folder, packed.getvalue())


def with_golden_bytes(folder: Path, data: bytes) -> Path:
    (folder / "golden/golden.npz").write_bytes(data)
    digests = {name: sha256((folder / name).read_bytes()).hexdigest() for name in ("model.onnx", "golden/golden.npz")}
    change_manifest(folder, sha256=digests)
    return folder


def test_golden_set_is_read_and_half_precision_maps_are_widened(bundle):
    golden, arrays = read_golden(open_bundle(bundle)), golden_arrays(parts())
    np.testing.assert_array_equal(golden.images, arrays["images"])
    np.testing.assert_array_equal(golden.anomaly_map, arrays["anomaly_map"])
    half = with_golden(bundle, anomaly_map=arrays["anomaly_map"].astype(np.float16))
    widened = read_golden(open_bundle(half)).anomaly_map
    assert widened.dtype == np.float32
    np.testing.assert_allclose(widened, arrays["anomaly_map"], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"raw_score": None}, "it must hold ['anomaly_map', 'image_score', 'images', 'raw_score'] with at least 1"),
        ({"notes": np.zeros(3)}, "with 16 images; it must hold"),
        ({name: array[:0] for name, array in golden_arrays(parts()).items()}, "with 0 images"),
        (
            {"images": np.zeros((16, 12, 17, 3), np.uint8)},
            "images is uint8 [16, 12, 17, 3]; the manifest asks for uint8",
        ),
        ({"image_score": np.zeros(15, np.float32)}, "image_score is float32 [15]; the manifest asks for float32 [16]"),
        ({"anomaly_map": np.zeros((16, 12, 16))}, "anomaly_map is float64 [16, 12, 16]"),
        ({"raw_score": np.full(16, np.nan, np.float32)}, "raw_score holds NaN or infinity"),
        (
            {"raw_score": np.array([{}] * 16, dtype=object)},
            "is not a readable npz file (Object arrays cannot be loaded",
        ),
    ],
)
def test_golden_set_that_does_not_fit_is_refused(bundle, changes, sentence):
    with pytest.raises(BundleError) as error:
        read_golden(open_bundle(with_golden(bundle, **changes)))
    assert sentence in str(error.value)


def test_golden_set_that_is_no_archive_or_a_bomb_is_refused(bundle, monkeypatch):
    with pytest.raises(BundleError, match="is not a readable npz file"):
        read_golden(open_bundle(with_golden_bytes(bundle, b"nothing packed")))
    packed = BytesIO()
    np.savez_compressed(packed, **golden_arrays(np.zeros((4000, 12, 16, 3), np.uint8)))
    monkeypatch.setattr("edge_agent.bundle.MAX_GOLDEN_BYTES", 10**6)
    with pytest.raises(BundleError, match=r"unpacks to 5\d+ bytes, more than 1000000"):
        read_golden(open_bundle(with_golden_bytes(bundle, packed.getvalue())))
