"""Whatever a bundle's folder holds: a bundle, or a BundleError, in bounded time; nothing outside it is touched."""

import io
import json
import struct
import time
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundle import golden_arrays, manifest_fields, parts, write_bundle, write_manifest

from edge_agent.bundle import BundleError, open_bundle, read_golden

FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["../secret", "/etc/passwd", "golden/../../x", "a\\b", "a\0b", "", ".", "..", "x" * 5000, "golden",
                     "model.onnx/", "./model.onnx", "MODEL.ONNX", "manifest.json", "signature"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")
    (folder.parent / "secret").write_text("outside")
    return folder


def outcome(folder):
    """Opened and its golden set read, or why not."""
    began = time.monotonic()
    try:
        bundle = open_bundle(folder)
        read_golden(bundle)
    except BundleError as error:
        assert str(error).endswith((".", '"', "'")), error
        return str(error)
    finally:
        assert time.monotonic() - began < 10.0
    return None


def digests(folder):
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in ("model.onnx", "golden/golden.npz")}


@FUZZ
@given(data=st.data())
def test_any_json_in_any_place_of_the_manifest(folder, data):
    fields = {**manifest_fields(), "sha256": digests(folder)}
    path = [data.draw(st.sampled_from(sorted(fields)))]
    inner = fields[path[0]]
    while isinstance(inner, dict) and inner and data.draw(st.booleans()):
        path.append(data.draw(st.sampled_from(sorted(inner))))
        inner = inner[path[-1]]
    changed = json.loads(json.dumps(fields))
    section = changed
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = data.draw(JSON)
    write_manifest(folder, changed)
    outcome(folder)


@FUZZ
@given(names=st.dictionaries(NAMES, st.sampled_from(["0" * 64, "", "x"]), max_size=3))
def test_no_name_in_the_manifest_leads_out_of_the_folder(folder, names):
    right = digests(folder)
    secret = sha256(b"outside").hexdigest()
    listed = {**dict.fromkeys(names, secret), **right}
    write_manifest(folder, {**manifest_fields(), "sha256": listed})
    refused = outcome(folder)
    assert refused or set(listed) == set(right)


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_bytes_for_a_manifest(folder, data):
    (folder / "manifest.json").write_bytes(data)
    assert outcome(folder)


def with_golden(folder, data):
    (folder / "golden" / "golden.npz").write_bytes(data)
    write_manifest(folder, {**manifest_fields(), "sha256": digests(folder)})


def packed(arrays, compress=False):
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


@pytest.fixture
def own(tmp_path):
    return write_bundle(tmp_path / "bundle")


@FUZZ
@given(data=st.data())
def test_any_damage_to_the_golden_set(own, data):
    sound = bytearray(packed(golden_arrays(parts(2)), data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sound) - 1))
        sound[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with_golden(own, bytes(sound))
    outcome(own)


@FUZZ
@given(data=st.data())
def test_any_header_of_an_array(own, data):
    """The npy header is text that NumPy evaluates as a literal: shapes that don't exist, types that hold objects."""
    shape = data.draw(st.one_of(st.lists(st.integers(-2, 2**70), max_size=4).map(tuple), st.text(max_size=9)))
    dtype = data.draw(st.sampled_from(["|u1", "<f4", "|O", "<U9999999", "V9", "<M8[s]", "x", "<f99", "[('a', '<f4')]"]))
    header = data.draw(st.sampled_from([
        repr({"descr": dtype, "fortran_order": False, "shape": shape}), repr({"descr": dtype}), "(" * 300, "{"
    ])).encode("latin1", "replace") + b"\n"  # fmt: skip
    arrays = {name: io.BytesIO() for name in golden_arrays(parts(2))}
    for name, file in arrays.items():
        np.save(file, golden_arrays(parts(2))[name])
    arrays["images"] = io.BytesIO(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as directory:
        for name, content in arrays.items():
            directory.writestr(f"{name}.npy", content.getvalue())
    with_golden(own, file.getvalue())
    assert outcome(own)


def test_a_zip_bomb_and_names_that_lead_out_are_refused_before_anything_is_unpacked(own):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as directory:
        for name in ("images", "image_score", "raw_score", "anomaly_map"):
            with directory.open(f"{name}.npy", "w", force_zip64=True) as member:
                for _ in range(300):
                    member.write(bytes(2**20))
    with_golden(own, file.getvalue())
    assert "unpacks to" in outcome(own)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as directory:
        directory.writestr("../../escaped.npy", b"x")
    with_golden(own, file.getvalue())
    assert outcome(own)
    assert not list(own.parent.parent.rglob("escaped*"))
