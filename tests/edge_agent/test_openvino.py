"""OpenVINO answers as the model does, in the precision that it was told, and refuses what is no contract."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_bundle import SIZE, assert_scores_are_the_models, parts, tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError, open_engine
from edge_agent.engines import openvino as engine_of_openvino
from edge_agent.engines.golden import check_golden
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from edge_agent.engines.openvino import OpenVinoEngine, permute_by_convolution, supports_bfloat16

onnx = pytest.importorskip("onnx", reason="the tiny model is built with onnx, of the export extra")
try:
    openvino = engine_of_openvino.the_module()  # without its telemetry, which forks this process
except EngineError:
    pytest.skip("OpenVINO is not installed (the openvino extra)", allow_module_level=True)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture(scope="module")
def engine():
    return OpenVinoEngine(tiny_model(), threads=1, precision="float32")


@pytest.mark.parametrize("n", [1, 3])
def test_scores_are_the_models_for_any_batch(engine, n):
    assert_scores_are_the_models(engine, n)
    assert (engine.name, engine.precision, engine.size) == ("openvino", "float32", SIZE)


def test_answers_are_the_callers_to_keep(engine):
    first = engine.run(parts(1, seed=1))
    kept = first.anomaly_map.copy()
    engine.run(parts(1, seed=2))
    np.testing.assert_array_equal(first.anomaly_map, kept)


def test_it_agrees_with_the_golden_set_as_an_engine_of_a_bundle(tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))
    engine = open_engine(bundle, "openvino", threads=1, precision="float32")
    assert check_golden(engine, bundle).verdict_flips == 0
    engine.close()
    with pytest.raises(EngineError, match=r"The engine was closed\. Open it again"):
        engine.run(parts(1))


def convolving(model: bytes, channels: int) -> bytes:
    """The tiny model with convolutions and channel permutations before its map: room for bfloat16 to be wrong in."""
    loaded = onnx.load_from_string(model)
    graph, rng = loaded.graph, np.random.default_rng(0)
    order = rng.permutation(channels)
    constants = {
        "up": rng.uniform(0.2, 1.0, (channels, 3, 1, 1)).astype(np.float32),
        "down": rng.uniform(0.01, 0.05, (1, channels, 3, 3)).astype(np.float32),
        "order": order.astype(np.int64),
        "twice": rng.integers(0, channels, channels),  # a selection, no permutation
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = [
        helper.make_node("Cast", ["image"], ["colour"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["colour"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "up"], ["wide"]),
        helper.make_node("Gather", ["wide", "order"], ["permuted"], axis=1),
        helper.make_node("Gather", ["permuted", "twice"], ["selected"], axis=1),
        helper.make_node("Add", ["permuted", "selected"], ["both"]),
        helper.make_node("Conv", ["both", "down"], ["narrow"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["narrow", "channel"], ["grey"], keepdims=0),
    ]
    kept = list(graph.node)[2:]
    del graph.node[:]
    next(each for each in graph.initializer if each.name == "channel").CopyFrom(
        helper.make_tensor("channel", TensorProto.INT64, [1], [1])
    )
    graph.node.extend([*nodes, *kept])
    return loaded.SerializeToString()


@pytest.mark.parametrize(("channels", "rewritten"), [(8, 1), (128, 0)])
def test_a_permutation_of_few_channels_becomes_a_convolution_that_changes_nothing(channels, rewritten):
    model, images = convolving(tiny_model(), channels), parts(4)
    graph = openvino.Core().read_model(model=model, weights=b"")
    graph.reshape({"image": [1, *SIZE, 3]})
    assert permute_by_convolution(graph) == rewritten
    found, right = OpenVinoEngine(model, precision="float32").run(images), OnnxRuntimeEngine(model).run(images)
    for ours, theirs in zip(found, right, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_bfloat16_is_bfloat16_where_the_cpu_has_it_and_refused_where_not(monkeypatch):
    model, images = convolving(tiny_model(), 8), parts(4)
    if not supports_bfloat16():
        assert OpenVinoEngine(model).precision == "float32"
        with pytest.raises(EngineError, match="This CPU computes no bfloat16"):
            OpenVinoEngine(model, precision="bfloat16")
        pytest.skip("This CPU computes no bfloat16.")
    engine = OpenVinoEngine(model)  # auto
    assert engine.precision == "bfloat16"
    exact, found = OnnxRuntimeEngine(model).run(images), engine.run(images)
    error = np.abs(found.raw_score / exact.raw_score - 1.0).max()
    assert 1e-5 < error < 2e-2  # bfloat16 has 8 bits
    monkeypatch.setattr(engine_of_openvino, "supports_bfloat16", lambda: False)
    assert OpenVinoEngine(model).precision == "float32"
    with pytest.raises(EngineError, match="Set precision to float32"):
        OpenVinoEngine(model, precision="bfloat16")


def without_map() -> bytes:
    loaded = onnx.load_from_string(tiny_model())
    del loaded.graph.output[1]
    return loaded.SerializeToString()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (b"no model", "The model can't be loaded by OpenVINO"),
        (tiny_model()[:200], "The model can't be loaded by OpenVINO"),
        (tiny_model(dtype="FLOAT"), "The model takes .*f32.*; the one input should be image, uint8"),
        (tiny_model(batch=1), "with a batch that may vary. Export the bundle again"),
        (without_map(), "The model gives .* it should give .*anomaly_map"),
    ],
)
def test_a_wrong_model_is_a_sentence(model, text):
    with pytest.raises(EngineError, match=text) as error:
        OpenVinoEngine(model)
    assert "\n" not in str(error.value)


def test_wrong_settings_and_images_are_refused(engine):
    with pytest.raises(EngineError, match="precision is 'float16'. OpenVINO takes float32, bfloat16 or auto"):
        OpenVinoEngine(tiny_model(), precision="float16")
    with pytest.raises(EngineError, match="threads is 0; an engine needs at least 1"):
        OpenVinoEngine(tiny_model(), threads=0)
    with pytest.raises(EngineError, match=r"The engine was given uint8 \[1, 16, 12, 3\]"):
        engine.run(np.zeros((1, 16, 12, 3), np.uint8))


def test_without_openvino_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"OpenVINO can't be loaded .* pip install faultline\[openvino\]"):
        OpenVinoEngine(tiny_model())


OVERLAPPING = """
import os, signal, sys
from pathlib import Path
from edge_agent.engines.openvino import OpenVinoEngine
arrived = []
signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
model = Path(sys.argv[1]).read_bytes()
first = OpenVinoEngine(model, threads=1)
second = OpenVinoEngine(model, threads=1)
first.close(); del first
second.close(); del second
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(0 if arrived else 1)
"""


def test_a_signal_after_two_engines_were_closed_is_no_segmentation_fault(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model())
    command = [sys.executable, "-c", OVERLAPPING, model]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_it_is_imported_without_its_telemetry():
    """Which would start a process that reports the import."""
    command = "import sys, edge_agent.engines.openvino as e; e.the_module(); print(sys.modules['openvino_telemetry'])"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None"
