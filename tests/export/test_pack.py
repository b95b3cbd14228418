"""A bundle appears whole, true to the model, and signed; or not at all."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from untrained_run import make_run

import export.pack
from edge_agent.bundle import BundleError, open_bundle, read_golden
from edge_agent.engines import open_engine
from edge_agent.engines.golden import check_golden
from export.errors import ExportError, InputError
from export.lower import LoweringError
from export.lower.elementwise import apply
from export.lower.rules import RULES
from export.pack import pack
from export.signing import keygen, read_private_key
from train.run import RunError


def entries(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def packed(untrained_run, tmp_path_factory):
    return pack(untrained_run, tmp_path_factory.mktemp("bundles") / "washer", version=3)


def test_the_agent_opens_and_trusts_it(packed, untrained_run):
    bundle = open_bundle(packed.bundle.folder)
    assert bundle.digest == packed.bundle.digest
    manifest = bundle.manifest
    assert (manifest.system, manifest.name, manifest.version) == ("aesc", "washer", 3)
    assert (manifest.precision, manifest.opset) == ("fp32", 18)
    assert manifest.thresholds.model_dump() == untrained_run.thresholds.model_dump()
    assert manifest.score.startswith("AESc residual: ")
    assert manifest.provenance["config_digest"]
    assert manifest.provenance["scoring"] == "residual"
    engine = open_engine(bundle)
    for batch in (1, 2, 16):
        result = check_golden(engine, bundle, batch=batch)
        assert result.map_error <= 1e-5
        assert result.verdict_flips == 0
    assert manifest.measured["map_error"] <= 1e-5
    assert not packed.is_signed
    assert (packed.bundle.folder.stat().st_mode & 0o777) == 0o755


def test_the_graph_is_the_contracts(packed, untrained_run):
    model = onnx.load_from_string(packed.bundle.read("model.onnx"))
    assert [o.name for o in model.graph.output] == ["image_score", "anomaly_map", "raw_score"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    golden = read_golden(packed.bundle)
    scores = open_engine(packed.bundle).run(golden.images)
    raw, maps = untrained_run.score_batch(golden.images)
    np.testing.assert_allclose(scores.raw_score, raw, rtol=1e-5)
    np.testing.assert_allclose(scores.image_score * untrained_run.thresholds.image, raw, rtol=1e-5)
    np.testing.assert_allclose(scores.anomaly_map * untrained_run.thresholds.pixel, maps, rtol=1e-3, atol=1e-3)


def test_signed_bundles_fit_their_public_key_and_no_other(untrained_run, tmp_path):
    public = keygen(tmp_path / "line.pem")
    other = keygen(tmp_path / "other.pem")
    made = pack(untrained_run, tmp_path / "bundle", key=read_private_key(tmp_path / "line.pem"), name="nut")
    assert made.is_signed
    assert open_bundle(tmp_path / "bundle", public_key=public).manifest.name == "nut"
    assert (tmp_path / "bundle" / "signature").stat().st_size == 64
    with pytest.raises(BundleError, match="was altered, or signed with another key"):
        open_bundle(tmp_path / "bundle", public_key=other)


def test_uncertainty_ships_with_its_masks(tmp_path):
    run = make_run(tmp_path / "run", scoring="uncertainty")
    made = pack(run, tmp_path / "bundle")
    assert made.bundle.manifest.provenance["scoring"] == "uncertainty"
    assert made.parity.map_error <= 1e-5


def test_an_existing_folder_is_left_alone(untrained_run, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "precious").touch()
    with pytest.raises(
        InputError, match="exists already. A bundle is never changed or overwritten: take another --out"
    ):
        pack(untrained_run, tmp_path / "bundle")
    assert entries(tmp_path / "bundle") == ["precious"]


def test_a_wrong_lowering_is_refused_and_nothing_is_left(untrained_run, tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "logistic", lambda operation: apply(operation, "Tanh", operation.tensor()))
    with pytest.raises(ExportError, match=r"map_error is .*, allowed is 0\.0001\. No bundle was written"):
        pack(untrained_run, tmp_path / "made" / "bundle")
    assert entries(tmp_path) == []


def test_a_wrong_score_alone_is_refused(untrained_run, tmp_path, monkeypatch):
    """The last square root of the score; the map is right."""
    monkeypatch.setitem(RULES, "sqrt", lambda operation: apply(operation, "Abs", operation.tensor()))
    with pytest.raises(ExportError, match="score_error is"):
        pack(untrained_run, tmp_path / "bundle")
    assert entries(tmp_path) == []


def test_an_operation_without_a_rule_is_named_with_its_place(untrained_run, tmp_path, monkeypatch):
    monkeypatch.delitem(RULES, "logistic")
    with pytest.raises(
        LoweringError, match=r"train/detectors/aesc/score\.py:\d+, in .*: the operation 'logistic' can't"
    ):
        pack(untrained_run, tmp_path / "bundle")
    assert entries(tmp_path) == []


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_while_writing_leaves_nothing(untrained_run, tmp_path, monkeypatch, fault):
    written = []

    def failing(path, data):
        if written:
            raise fault
        written.append(path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(export.pack, "_write", failing)
    with pytest.raises(type(fault)):
        pack(untrained_run, tmp_path / "bundle")
    assert written
    assert entries(tmp_path) == []


def test_what_the_reader_would_refuse_never_gets_its_name(untrained_run, tmp_path, monkeypatch):
    """The manifest is read back by the agent's own reader before the folder is renamed."""
    monkeypatch.setattr(export.pack, "_packed", lambda golden: b"no npz")

    def refusing(folder):
        assert folder.name.startswith(".bundle.partial-")
        raise BundleError("golden.npz is not a readable npz file")

    monkeypatch.setattr(export.pack, "open_bundle", refusing)
    with pytest.raises(BundleError):
        pack(untrained_run, tmp_path / "bundle")
    assert entries(tmp_path) == []


def test_a_run_that_has_not_ended_is_refused(untrained_run, tmp_path):
    with pytest.raises(RunError, match="has no thresholds yet: its training has not ended"):
        pack(replace(untrained_run, thresholds=None), tmp_path / "bundle")
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"precision": "bf16"}, "--precision bf16 is not known; it is one of fp32, fp16, int8"),
        ({"precision": "int8"}, "int8 finds its ranges on good training images, .*: add --data FOLDER"),
        ({"calibration": np.zeros((1, 64, 64, 3), np.uint8)}, "--data is read for --precision int8 alone"),
        ({"version": 0}, "--version is 0; versions of a product count from 1 upwards"),
    ],
)
def test_wrong_requests(untrained_run, tmp_path, request_, text):
    with pytest.raises(InputError, match=text):
        pack(untrained_run, tmp_path / "bundle", **request_)
    assert entries(tmp_path) == []


def test_the_manifest_is_plain_json(packed):
    fields = json.loads((packed.bundle.folder / "manifest.json").read_bytes())
    assert fields["kind"] == "detector"
    assert set(fields["sha256"]) == {"model.onnx", "golden/golden.npz"}


def test_signing_key_type_is_the_one_that_devices_read():
    assert len(Ed25519PrivateKey.generate().sign(b"x")) == 64
