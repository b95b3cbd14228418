"""AnoGAN's networks and a search of steps that ONNX Runtime makes; f-AnoGAN as a bundle; what is refused."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import onnx
import pytest
from flax import nnx
from network_plans import assert_taken
from onnx_against_jax import run_session
from test_lower_rewrites import settled
from typer.testing import CliRunner

from edge_agent.bundle import open_bundle
from export import graphs
from export.__main__ import app
from export.errors import ExportError, InputError
from export.graphs import held, lower_network, write_graphs
from export.pack import pack
from train.detectors.anogan import ANOGAN, AnoGANConfig
from train.detectors.anogan.invert import invert
from train.detectors.anogan.score import inversion
from train.detectors.f_anogan import F_ANOGAN, FAnoGANConfig
from train.fit_threshold import fit_thresholds
from train.run import TrainedRun, read_held_out, write_held_out


def untrained(folder, detector, config, size) -> TrainedRun:
    """A run of random weights with batch statistics, and thresholds fitted to its scores of noise."""
    model = detector.build(config, nnx.Rngs(0))
    for seed, (_, part) in enumerate(nnx.iter_graph(model)):
        if isinstance(part, nnx.BatchNorm):
            settled(part, seed)
    model.eval()
    weights = jax.tree.map(jax.numpy.asarray, detector.fold(model, None, config))
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3)).astype(np.uint8)
    write_held_out(folder, images, [f"good/{index}.png" for index in range(len(images))])
    run = TrainedRun(folder, detector, config, 7, weights, None, {"product": "washer"})
    return replace(run, thresholds=fit_thresholds(*run.score_batch(read_held_out(run)[0])))


@pytest.fixture(scope="module")
def anogan(tmp_path_factory) -> TrainedRun:
    given = {"network": "seed", "image_size": 28, "color": "grey", "filters": 2, "latent": 6, "inversion_steps": 5}
    return untrained(tmp_path_factory.mktemp("anogan"), ANOGAN, AnoGANConfig.model_validate(given), 28)


@pytest.fixture(scope="module")
def f_anogan(tmp_path_factory) -> TrainedRun:
    config = FAnoGANConfig(image_size=96, tile_overlap=32, filters=1, latent=4)
    return untrained(tmp_path_factory.mktemp("f_anogan"), F_ANOGAN, config, 96)


def test_a_search_made_of_the_graphs_ends_where_ours_ends(anogan, tmp_path):
    written = write_graphs(anogan, tmp_path / "graphs")
    assert [network.name for network in written] == ["generator", "discriminator", "inversion_step"]
    assert max(network.error for network in written) < 1e-5
    generator, discriminator, step = (run_session(onnx.load(tmp_path / "graphs" / network.file)) for network in written)
    x = np.random.default_rng(1).uniform(-1, 1, (3, 28, 28, 1)).astype(np.float32)
    starts, config = anogan.weights.starts, anogan.config
    search = partial(invert, settings=inversion(config), layout=config.layout, form="plain", keep_curve=True)
    expected = search(anogan.weights.networks, jax.numpy.asarray(x), starts)
    _, feature = discriminator.run(None, {"image": x})
    z = np.repeat(np.asarray(starts), 3, axis=0)
    mean, square, curve = np.zeros_like(z), np.zeros_like(z), []
    for number in range(config.inversion_steps):
        given = {"image": x, "feature": feature, "z": z, "mean": mean, "square": square}
        z, mean, square, loss = step.run(None, {**given, "number": np.asarray(number, np.float32)})
        curve.append(loss)
    np.testing.assert_allclose(z, expected.z, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(curve, expected.curve, rtol=1e-4)
    np.testing.assert_allclose(generator.run(None, {"z": z})[0], expected.drawn, atol=1e-4)


def test_a_graph_that_differs_from_jax_is_not_written(anogan, tmp_path, monkeypatch):
    network = anogan.detector.networks(anogan)[0]
    wrong = network._replace(function=lambda z: 1.01 * network.function(z))
    with pytest.raises(ExportError, match="generator: ONNX Runtime and JAX disagree on image by"):
        held(wrong, lower_network(network))
    monkeypatch.setattr(graphs, "MOST_ERROR", -1.0)
    with pytest.raises(ExportError, match="Nothing was written"):
        write_graphs(anogan, tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_the_graphs_become_engine_plans(anogan):
    for network in anogan.detector.networks(anogan):
        assert_taken(lower_network(network), built=True)


def test_the_bundle_of_a_search_is_refused_and_says_what_to_train(anogan, tmp_path):
    with pytest.raises(InputError, match="runs on the server only.*For a device train f_anogan"):
        pack(anogan, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_detector_of_one_graph_has_none_of_single_networks(anogan, f_anogan, tmp_path):
    with pytest.raises(InputError, match="f_anogan is exported as a whole"):
        write_graphs(f_anogan, tmp_path / "graphs")
    with pytest.raises(InputError, match="exists already"):
        write_graphs(anogan, tmp_path)


def test_f_anogan_ships_like_any_other_detector(f_anogan, tmp_path):
    packed = pack(f_anogan, tmp_path / "bundle")
    assert packed.parity.map_error <= 1e-4
    assert packed.parity.verdict_flips == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.system == "f_anogan"
    assert "of each of 4 tiles of 64 px" in manifest.score
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    assert sum(node.op_type == "Transpose" for node in model.graph.node) < 12


def test_the_command_says_where_it_was_given_no_run(tmp_path):
    done = CliRunner().invoke(app, ["graphs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "is not the run folder of a detector" in done.stderr
