"""Defect-GAN's generator as a graph: it draws what JAX draws, in every engine, and jobs run on it."""

import importlib.util
import json
import os

import numpy as np
import onnx
import pytest
from cuda_stand_in import StandIn
from onnx_against_jax import run_session
from test_synthesis_job import put_images
from typer.testing import CliRunner
from untrained_generator import make_generator

import export.paint
import train.generators.run
from edge_agent.engines import EngineError
from edge_agent.preprocess import read_image
from export.__main__ import app
from export.graph_engines import open_graph
from export.graphs import lower_network, write_graphs
from export.paint import EnginePainter
from train.__main__ import app as train_app
from train.data.folder import open_dataset
from train.synthesis.jax_painter import JaxPainter
from train.synthesis.sources import Source
from train.synthesis.task import Task

BATCH = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def model(run):
    return lower_network(run.generator.networks(run)[0])


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    """Images, regions and tasks of one batch."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)
    regions = random.uniform(size=(BATCH, 16, 16)) < 0.5
    source = Source(tmp_path_factory.getbasetemp(), "a.png", "train", "")
    asked = [(("burr",), 1.0), (("pore",), 1.0), ((), 1.0), (("burr",), 0.4)]
    return images, regions, [Task(index, 3, names, strength, source) for index, (names, strength) in enumerate(asked)]


@pytest.fixture(scope="module")
def expected(run, order):
    drawn, mask, *_ = JaxPainter(run, batch=BATCH).paint(*order)
    assert 0.05 < mask.mean() < 0.9
    assert (drawn != order[0]).any(axis=(1, 2, 3)).all()
    return drawn, mask


def assert_alike(found, expected):
    drawn, mask, *_ = found
    assert drawn.dtype == np.uint8
    assert np.abs(drawn.astype(int) - expected[0]).max() <= 1  # a half, rounded the other way
    np.testing.assert_allclose(mask, expected[1], atol=1e-4)


def test_the_graph_is_jax_and_every_input_counts(run, order, expected, tmp_path):
    (written,) = write_graphs(run, tmp_path / "graphs")
    assert written.name == "generator"
    assert written.error < 1e-5
    session = run_session(onnx.load(tmp_path / "graphs" / written.file))
    random = np.random.default_rng(1)
    shapes = {each.name: [size if isinstance(size, int) else 2 for size in each.shape] for each in session.get_inputs()}
    assert list(shapes) == ["image", "control", "noise", "strength"]
    given = {name: random.uniform(0.2, 0.9, shape).astype(np.float32) for name, shape in shapes.items()}
    given["image"] = random.integers(0, 256, shapes["image"]).astype(np.uint8)
    before, mask = session.run(None, given)
    for name, value in given.items():
        changed = given | {name: (value // 2 if name == "image" else value * 0.5)}
        assert (session.run(None, changed)[0] != before).mean() > 0.1, name
    assert (session.run(None, given | {"strength": given["strength"] * 0})[0] == given["image"]).all()
    assert 0 <= mask.min() < mask.max() <= 1


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_an_engine_on_the_cpu_draws_what_jax_draws(run, order, expected, kind):
    if importlib.util.find_spec(kind) is None:  # importing OpenVINO here would start its telemetry, which forks
        pytest.skip(f"{kind} is not installed")
    painter = EnginePainter(run, kind, batch=BATCH)
    assert_alike(painter.paint(*order), expected)
    assert_alike(painter.paint(*order), expected)  # nothing is left over from the first
    assert painter.identity["engine"].startswith(kind)
    painter.close()


def test_tensorrt_is_given_every_input_and_frees_what_it_took(run, order, expected, monkeypatch):
    machine = StandIn().install(monkeypatch)
    painter = EnginePainter(run, "tensorrt", batch=BATCH)
    for _ in range(2):
        assert_alike(painter.paint(*order), expected)
    painter.close()
    painter.close()
    assert machine.executions == [BATCH, BATCH]
    assert "TF32" not in machine.configs[-1].flags
    assert (machine.broken, machine.leaks()) == ([], [])


def test_tensorrt_that_fails_is_a_sentence_and_leaves_nothing(run, model, order, monkeypatch):
    machine = StandIn().install(monkeypatch)
    machine.build_fails_with = "no kernel for this"
    with pytest.raises(EngineError, match="building generator: no kernel for this"):
        open_graph(model, "tensorrt", BATCH)
    machine.build_fails_with = None
    painter = EnginePainter(run, "tensorrt", batch=BATCH)
    machine.fail_next["execute"] = "out of memory"
    with pytest.raises(EngineError, match="too little memory for drawing a batch"):
        painter.paint(*order)
    painter.close()
    assert (machine.broken, machine.leaks()) == ([], [])


def test_the_graph_becomes_a_plan_of_tensorrt_rtx(model):
    pytest.importorskip("tensorrt_rtx")
    from edge_agent.engines.tensorrt.api import load
    from export.graph_engines.tensorrt import build_plan

    plan = build_plan(model, 8, load("tensorrt_rtx"), flavour="tensorrt_rtx", target="SM86")
    assert len(plan) > 10_000


def test_a_job_runs_on_an_engine_and_is_not_mixed_with_another(run, tmp_path, monkeypatch):
    put_images(tmp_path / "parts", 5)
    for module in (export.paint, train.generators.run):
        monkeypatch.setattr(module, "open_generator", lambda folder: run, raising=False)
    words = [str(run.folder), "--data", str(tmp_path / "parts"), "--count", "9", "--region", "image"]
    words += ["--mask-threshold", "0.2"]
    done = CliRunner().invoke(
        app, ["synthesize", *words, "--out", str(tmp_path / "engine"), "--engine", "onnxruntime", "--json"]
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["drawn"] + summary["empty"] == summary["total"] == 9
    dataset = open_dataset(tmp_path / "engine")
    assert len(dataset.test) == summary["drawn"] > 0
    by_jax = CliRunner().invoke(train_app, ["synthesize", *words, "--out", str(tmp_path / "jax")])
    assert by_jax.exit_code == 0, by_jax.output
    for sample in dataset.test:
        other = tmp_path / "jax" / "test" / sample.label / sample.path.name
        difference = read_image(sample.path).astype(int) - read_image(other)
        assert np.abs(difference).max() <= 1
    mixed = CliRunner().invoke(train_app, ["synthesize", *words, "--out", str(tmp_path / "engine")])
    assert mixed.exit_code == 2
    assert "was begun with generator.engine" in mixed.stderr.replace("\n", " ")
    given = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: given.append(arguments))
    monkeypatch.setattr("sys.argv", ["train", "synthesize", *words, "--engine", "tensorrt"])
    CliRunner().invoke(train_app, ["synthesize", *words, "--out", str(tmp_path / "jax"), "--engine", "tensorrt"])
    assert given[0][1:] == ["-m", "export", "synthesize", *words, "--engine", "tensorrt"]


def test_the_same_words_give_the_same_bytes_on_jax_whatever_the_parts(run, tmp_path, monkeypatch):
    put_images(tmp_path / "parts", 5)
    monkeypatch.setattr(train.generators.run, "open_generator", lambda folder: run)
    words = ["synthesize", str(run.folder), "--data", str(tmp_path / "parts")]
    whole = [*words, "--region", "box:2,2,12,12", "--mask-threshold", "0.2", "--seed", "7", "--count", "19"]
    assert CliRunner().invoke(train_app, [*whole, "--out", str(tmp_path / "whole")]).exit_code == 0
    for shard in ("2/2", "1/2"):
        CliRunner().invoke(train_app, [*whole, "--out", str(tmp_path / "parted"), "--shard", shard])
    files = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in (tmp_path / "whole").rglob("*.*")}
    assert {
        path.relative_to(tmp_path / "parted"): path.read_bytes() for path in (tmp_path / "parted").rglob("*.*")
    } == files
    assert len(files) > 40
