"""Engines: what they answer is the model's, and what can't be trusted is an EngineError with a sentence."""

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import (
    PIXEL_THRESHOLD,
    SIZE,
    THRESHOLD,
    assert_scores_are_the_models,
    golden_arrays,
    manifest_fields,
    parts,
    tiny_model,
    write_bundle,
)

from edge_agent.bundle import Golden, open_bundle
from edge_agent.engines import EngineError, Scores, open_engine
from edge_agent.engines.golden import TIE, check_golden, compare
from edge_agent.engines.onnxruntime import OnnxRuntimeEngine
from edge_agent.engines.replay import ReplayEngine

onnx = pytest.importorskip("onnx", reason="the tiny model is built with onnx, of the export extra")
from onnx import helper, numpy_helper  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    """An opened bundle; not to be changed."""
    return open_bundle(write_bundle(tmp_path_factory.mktemp("engines") / "bundle", model=tiny_model()))


@pytest.fixture(scope="module")
def engine(bundle):
    return open_engine(bundle, threads=1)


def recorded(n: int = 4) -> Scores:
    arrays = golden_arrays(parts(n))
    return Scores(arrays["image_score"], arrays["anomaly_map"], arrays["raw_score"])


def changed(model: bytes, change) -> bytes:
    """The model with `change(graph)` applied."""
    loaded = onnx.load_from_string(model)
    change(loaded.graph)
    return loaded.SerializeToString()


def filled(graph, name: str, value: float) -> None:
    """Replace the graph's constant `name` by one number."""
    at = next(i for i, tensor in enumerate(graph.initializer) if tensor.name == name)
    graph.initializer[at].CopyFrom(numpy_helper.from_array(np.float32(value), name))


@pytest.mark.parametrize("n", [1, 3, 16])
def test_scores_are_the_models_for_any_batch(engine, n):
    assert_scores_are_the_models(engine, n)


def test_images_that_lie_scattered_in_memory_are_scored_alike(engine):
    images = parts(4)
    mirrored = engine.run(images[:, :, ::-1])
    np.testing.assert_array_equal(mirrored.anomaly_map, engine.run(images).anomaly_map[:, :, ::-1])


def test_answers_are_the_callers_to_keep(engine):
    first = engine.run(parts(1, seed=1))
    kept = first.anomaly_map.copy()
    engine.run(parts(1, seed=2))
    np.testing.assert_array_equal(first.anomaly_map, kept)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((1, *SIZE, 3), np.float32), "float32 [1, 12, 16, 3]"),
        (np.zeros((*SIZE, 3), np.uint8), "uint8 [12, 16, 3]"),
        (np.zeros((0, *SIZE, 3), np.uint8), "uint8 [0, 12, 16, 3]"),
        (np.zeros((1, 16, 12, 3), np.uint8), "uint8 [1, 16, 12, 3]"),
        (np.zeros((1, *SIZE, 1), np.uint8), "uint8 [1, 12, 16, 1]"),
    ],
)
def test_wrong_images_are_refused(engine, images, found):
    with pytest.raises(EngineError) as error:
        engine.run(images)
    assert f"The engine was given {found}; it takes uint8 [n, 12, 16, 3]. Pass frames through" in str(error.value)


def test_model_file_and_its_bytes_are_the_same_engine(bundle, engine):
    from_file = OnnxRuntimeEngine(bundle.folder / "model.onnx", threads=2)
    np.testing.assert_array_equal(from_file.run(parts()).anomaly_map, engine.run(parts()).anomaly_map)
    assert (from_file.name, from_file.size) == ("onnxruntime", SIZE)


@pytest.mark.parametrize("kind", ["onnxruntime", "replay"])
def test_closed_engine_says_so(bundle, kind):
    engine = open_engine(bundle, kind)
    engine.run(parts(1))
    engine.close()
    engine.close()  # twice is no harm
    with pytest.raises(EngineError, match=r"The engine was closed\. Open it again"):
        engine.run(parts(1))


def test_engine_of_another_name_is_refused(bundle):
    with pytest.raises(EngineError, match=r"'abacus' is no engine of this release\. Choose one of onnxruntime, "):
        open_engine(bundle, "abacus")


def test_zero_threads_are_refused(bundle):
    with pytest.raises(EngineError, match="threads is 0; an engine needs at least 1"):
        open_engine(bundle, threads=0)


def shape_of(value, *dimensions) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dimensions))


UNFIT = {
    "noise": (b"no protobuf at all", "The model can't be loaded by ONNX Runtime"),
    "empty": (b"", "The model can't be loaded by ONNX Runtime"),
    "truncated": (tiny_model()[:-20], "The model can't be loaded by ONNX Runtime"),
    "future opset": (tiny_model(opset=18).replace(b"\x10\x12", b"\x10\x7e"), "update onnxruntime where it is too old"),
    "float input": (tiny_model(dtype="FLOAT"), "the one input should be image, uint8 [batch, height, width, 3]"),
    "fixed batch": (tiny_model(batch=1), "with a batch that may vary"),
    "any size": (
        changed(tiny_model(), lambda graph: shape_of(graph.input[0], "batch", "height", "width", 3)),
        "the one input should be image",
    ),
    "renamed input": (
        changed(
            tiny_model(),
            lambda graph: (setattr(graph.input[0], "name", "x"), graph.node[0].input.__setitem__(0, "x")),
        ),
        "The model takes {'x': ('tensor(uint8)'",
    ),
    "lost output": (changed(tiny_model(), lambda graph: graph.output.pop()), "it should give {'image_score'"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_model_is_refused_when_opened(name, capfd):
    model, sentence = UNFIT[name]
    with pytest.raises(EngineError) as error:
        OnnxRuntimeEngine(model)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # the sentence is all; ONNX Runtime adds nothing


def test_missing_model_file_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"gone\.onnx can't be loaded by ONNX Runtime"):
        OnnxRuntimeEngine(tmp_path / "gone.onnx")


def test_model_of_another_size_than_the_manifest_is_refused(tmp_path: Path):
    fields = manifest_fields()
    fields["preprocessing"]["width"] = 20
    fields["image"]["shape"] = ["batch", 12, 20, 3]
    fields["outputs"][1]["shape"] = ["batch", 12, 20]
    folder = write_bundle(tmp_path / "bundle", model=tiny_model(), **fields)
    with pytest.raises(EngineError, match=r"takes images of 16 x 12 pixels, but manifest\.json promises 20 x 12"):
        open_engine(open_bundle(folder))


def test_failure_while_running_becomes_a_sentence(capfd):
    """A Reshape to one image, which fails as soon as there are two."""

    def one_image_only(graph):
        graph.initializer.append(numpy_helper.from_array(np.int64([1, *SIZE, 3]), "one"))
        graph.node.insert(0, helper.make_node("Reshape", ["image", "one"], ["reshaped"]))
        graph.node[1].input[0] = "reshaped"

    engine = OnnxRuntimeEngine(changed(tiny_model(), one_image_only))
    assert len(engine.run(parts(1)).image_score) == 1
    with pytest.raises(EngineError, match="ONNX Runtime failed on 2 images: "):
        engine.run(parts(2))
    assert capfd.readouterr().err == ""


def test_answer_of_another_shape_is_refused():
    def sum_over_batch(graph):
        graph.node[3].CopyFrom(helper.make_node("ReduceMax", ["grey", "plane"], ["one_less"], keepdims=0))
        graph.initializer.append(numpy_helper.from_array(np.int64([0]), "first"))
        graph.node.insert(4, helper.make_node("Gather", ["one_less", "first"], ["raw_score"]))

    engine = OnnxRuntimeEngine(changed(tiny_model(), sum_over_batch))
    with pytest.raises(EngineError, match=r"answers 2 images with \[\[1\], \[2, 12, 16\], \[1\]\]"):
        engine.run(parts(2))


def test_replay_gives_the_recorded_answers_in_turn_and_again(bundle):
    replay, golden = open_engine(bundle, "replay"), golden_arrays(parts())
    assert replay.name == "replay"
    first = replay.run(np.zeros((10, *SIZE, 3), np.uint8))
    second = replay.run(np.zeros((10, *SIZE, 3), np.uint8))
    np.testing.assert_array_equal(first.raw_score, golden["raw_score"][:10])
    np.testing.assert_array_equal(second.raw_score, golden["raw_score"][[*range(10, 16), *range(4)]])
    np.testing.assert_array_equal(second.anomaly_map[0], golden["anomaly_map"][10])


def test_replay_of_nothing_is_refused():
    with pytest.raises(EngineError, match="at least one part"):
        ReplayEngine(Scores(*(array[:0] for array in recorded())))


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_golden_set_is_met_by_a_sound_engine(bundle, engine, batch):
    result = check_golden(engine, bundle, batch=batch)
    assert result.n == 16
    assert max(result.map_error, result.score_error) < 1e-6
    assert result.verdict_flips == 0


def with_model(tmp_path: Path, model: bytes, **limits) -> tuple:
    """An engine of `model` in a bundle that is sound but for it, under the given limits."""
    generous = {"map_error": 1e9, "score_error": 1e9, "verdict_flips": 99}
    folder = write_bundle(tmp_path / "bundle", model=model, limits={**generous, **limits})
    bundle = open_bundle(folder)
    return open_engine(bundle, threads=1), bundle


def test_map_error_over_the_limit_is_refused(tmp_path):
    """A pixel threshold 1 % off makes the largest map value err by 1 %; the range is a little less than that value."""
    model = changed(tiny_model(), lambda graph: filled(graph, "pixel_threshold", PIXEL_THRESHOLD / 1.01))
    engine, bundle = with_model(tmp_path, model)
    result = check_golden(engine, bundle)
    golden = golden_arrays(parts())["anomaly_map"]
    assert result.map_error == pytest.approx(0.01 * golden.max() / (golden.max() - golden.min()), rel=1e-3)
    assert (result.score_error < 1e-6, result.verdict_flips) == (True, 0)
    engine, bundle = with_model(tmp_path, model, map_error=0.009)
    with pytest.raises(
        EngineError, match=r"disagrees with the golden set .* map_error is 0\.01\d*, allowed is 0\.009, over"
    ):
        check_golden(engine, bundle)


def test_score_error_and_flips_over_their_limits_are_refused(tmp_path):
    model = tiny_model(threshold=THRESHOLD * 1.1)
    engine, bundle = with_model(tmp_path, model)
    result = check_golden(engine, bundle)
    right = golden_arrays(parts())["image_score"]
    assert result.verdict_flips == ((right > 1 + TIE) & (right <= 1.1)).sum() > 0
    assert result.score_error == pytest.approx(1 - 1 / 1.1, rel=1e-3)  # of scores above 1 the relative error
    for limit, found in (("score_error", r"0\.0909"), ("verdict_flips", "2")):
        engine, bundle = with_model(tmp_path, model, **{limit: 0})
        with pytest.raises(EngineError, match=f"{limit} is {found}, allowed is 0, over 16 images"):
            check_golden(engine, bundle)


def test_model_of_nan_weights_is_refused_whatever_the_limits(tmp_path):
    engine, bundle = with_model(tmp_path, tiny_model(threshold=float("nan")))
    with pytest.raises(EngineError, match="score_error is inf"):
        check_golden(engine, bundle)


def test_score_on_the_threshold_is_no_flip_but_one_beside_it_is():
    """Thresholds are scores that occurred: an image sits on 1.0 exactly, and the last bit must not refuse a bundle."""
    arrays = golden_arrays(parts(2))
    for score, flips in ((1.0, 0), (1.0 - 10 * TIE, 1)):
        golden = Golden(**{**arrays, "image_score": np.float32([score, 0.5])})
        off = Scores(np.float32([1.00001, 0.5]), arrays["anomaly_map"], arrays["raw_score"])
        assert compare(off, golden).verdict_flips == flips


def test_wrong_raw_score_is_a_score_error():
    arrays = golden_arrays(parts())
    scores = Scores(arrays["image_score"], arrays["anomaly_map"], arrays["raw_score"] * np.float32(1.5))
    assert compare(scores, Golden(**arrays)).score_error == pytest.approx(0.5)
