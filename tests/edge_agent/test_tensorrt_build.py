"""Building, the cache and the golden set, on a stand-in for CUDA and TensorRT: nothing unproved is ever used.

Every fault of the way from a bundle to an engine in service has its sentence here.
"""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from cuda_stand_in import StandIn
from tiny_bundle import golden_arrays, parts, tiny_model, write_bundle
from typer.testing import CliRunner

from edge_agent.__main__ import app
from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError, EngineNotBuilt
from edge_agent.engines.tensorrt import DeviceLost, build_engine, open_tensorrt, timing
from edge_agent.engines.tensorrt.cache import EngineCache
from edge_agent.engines.tensorrt.cuda import OutOfMemory

NO_GOLDEN = {"n": 16, "verdict_flips": 0}


@pytest.fixture
def machine(monkeypatch):
    machine = StandIn().install(monkeypatch)
    yield machine
    assert machine.broken == []
    assert machine.sticky or machine.leaks() == []


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def build(bundle, cache, **options):
    return build_engine(bundle, flavour="tensorrt", cache=cache, **options)


def scores_right(bundle, cache) -> bool:
    engine = open_tensorrt(bundle, flavour="tensorrt", cache=cache)
    found = engine.run(parts(1, seed=4)).raw_score
    engine.close()
    return bool(np.allclose(found, golden_arrays(parts(1, seed=4))["raw_score"]))


def side_of(cache) -> dict:
    (path,) = cache.glob("*.json")
    return json.loads(path.read_text())


def engine_files(cache) -> list[Path]:
    return sorted(cache.glob("*.engine"))


def says_wrong(scores):
    return {**scores, "anomaly_map": scores["anomaly_map"] + np.float32(0.5)}


def other_model_bundle(folder: Path, **changes):
    """Another version of the same product: its threshold was moved a little, its golden set is as close as before."""
    return open_bundle(write_bundle(folder, model=tiny_model(threshold=100.001), **changes))


# --- what a build makes ---------------------------------------------------------------------------------------------


def test_an_engine_is_built_proved_and_opened(machine, bundle, cache):
    told = []
    built = build(bundle, cache, batch_sizes=(1, 1, 4), on_progress=lambda phase, share: told.append((phase, share)))
    side = side_of(cache)
    assert side["key"] == {
        "onnx_sha256": bundle.manifest.sha256["model.onnx"],
        "flavour": "tensorrt",
        "tensorrt": "10.3.0",
        "sm": "8.7",
        "gpu": "Orin",
        "cuda": "12.6",
        "precision": "fp32",
        "image": [12, 16],
        "batch_sizes": [1, 1, 4],
        "builder_flags": {
            "strongly_typed": True,
            "tf32": False,
            "optimization_level": 3,
            "workspace_bytes": None,
        },
        "dla_core": None,
    }
    assert side["proof"].items() >= {**NO_GOLDEN, "bundle": bundle.digest}.items()
    assert side["proof"]["map_error"] < 1e-6
    assert built.proof is not None
    assert built.path.read_bytes().endswith(bundle.read("model.onnx"))
    assert machine.networks == [1 << machine.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    assert told[0] == ("reading the model", 0.0)
    assert told[-1] == ("checking the golden set", 1.0)
    assert scores_right(bundle, cache)
    assert set(machine.executions) == {1, 4}  # the golden set was scored one by one, and in the largest batch


def test_a_second_build_takes_what_the_cache_has(machine, bundle, cache):
    first = build(bundle, cache)
    again = build(bundle, cache)
    assert (again.path, again.key, again.seconds, again.proof) == (first.path, first.key, 0.0, first.proof)
    assert len(machine.networks) == 1
    assert build(bundle, cache, rebuild=True).seconds > 0
    assert len(machine.networks) == 2
    assert len(engine_files(cache)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"batch_sizes": (1, 1, 2)},
        {"workspace_bytes": 2**28},
        {"allow_tf32": True},
        {"optimization_level": 3},
    ],
)
def test_another_way_to_build_is_another_key(machine, bundle, cache, options):
    first, second = build(bundle, cache), build(bundle, cache, rebuild=True, **options)
    config = machine.configs[1]
    assert config.flags == ({"TF32"} if options.get("allow_tf32") else set())
    assert config.pools == ({"WORKSPACE": 2**28} if "workspace_bytes" in options else {})
    assert config.profile.shapes[2] == (options.get("batch_sizes", (1, 1, 1))[2], 12, 16, 3)
    assert (first.key == second.key) == (options == {"optimization_level": 3})  # that is TensorRT's own


def test_the_trtexec_line_builds_the_same(machine, bundle, cache):
    line = build(bundle, cache, batch_sizes=(1, 2, 4), workspace_bytes=2**28, optimization_level=4).trtexec
    build_line, time_line = line.split(" && ")
    timing_cache = timing.find(cache, "10.3.0", "8.7")
    assert build_line.split() == [
        "trtexec", f"--onnx={bundle.folder / 'model.onnx'}", "--saveEngine=model.engine",
        f"--timingCacheFile={timing_cache}", "--minShapes=image:1x12x16x3", "--optShapes=image:2x12x16x3",
        "--maxShapes=image:4x12x16x3", "--stronglyTyped", "--noTF32", "--builderOptimizationLevel=4",
        "--memPoolSize=workspace:256", "--skipInference",
    ]  # fmt: skip
    assert time_line.split() == [
        "trtexec", "--loadEngine=model.engine", "--shapes=image:1x12x16x3", "--useCudaGraph", "--warmUp=500",
        "--duration=10", "--percentile=99", "--exportTimes=times.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_sizes": (2, 2, 4)}, "Batch sizes are 2, 2, 4; the smallest is 1"),
        ({"batch_sizes": (1, 8, 4)}, "and they rise"),
        ({"workspace_bytes": 1000}, "The workspace is 1000 bytes; give at least 1 MiB"),
        ({"optimization_level": 6}, "it goes from 0 to 5"),
        ({"target": "sm86"}, "Only TensorRT-RTX builds ahead of time for another GPU, not TensorRT"),
        ({"device": 3}, r"device is 3, but CUDA counts 1 GPU\(s\)"),
    ],
)
def test_a_request_that_can_not_be_is_refused_before_any_work(machine, bundle, cache, options, said):
    with pytest.raises(EngineError, match=said):
        build(bundle, cache, **options)
    assert machine.networks == []


def test_the_command_says_how_closely_it_agrees_and_refuses_what_does_not(machine, bundle, cache):
    def typed(*arguments):
        result = CliRunner().invoke(app, ["build", str(bundle.folder), "--cache", str(cache), *arguments])
        return result.exit_code, result.stdout, result.stderr

    code, out, err = typed()
    assert (code, "checking the golden set" in err) == (0, True)
    assert "It agrees with the golden set on this device: 16 images, map error " in out
    assert "trtexec --onnx=" in out
    code, out, _ = typed("--json")
    assert json.loads(out)["golden"]["verdict_flips"] == 0
    machine.changes_scores = says_wrong
    code, out, err = typed("--batch", "2")
    assert (code, out) == (1, "")
    assert "The new engine is not used. The engine tensorrt disagrees with the golden set" in err


# --- what is not used ------------------------------------------------------------------------------------------------


def test_without_an_engine_file_nothing_is_opened(machine, bundle, cache):
    with pytest.raises(EngineNotBuilt, match=f"No TensorRT engine in {cache} can be used .* Build it on this device: "):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


@pytest.mark.parametrize("bytes_left", [0, 1, 200])
def test_a_half_written_engine_file_is_noticed_and_built_again(machine, bundle, cache, bytes_left, caplog):
    path = build(bundle, cache).path
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(EngineNotBuilt, match=f"is damaged: it has {bytes_left} bytes, .*json says"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)
    assert build(bundle, cache).seconds > 0
    assert "is damaged" in caplog.text
    assert scores_right(bundle, cache)


def test_one_wrong_bit_in_an_engine_file_is_noticed(machine, bundle, cache):
    path = build(bundle, cache).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineNotBuilt, match="is damaged: its sha256 is "):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


def test_a_missing_engine_file(machine, bundle, cache):
    build(bundle, cache).path.unlink()
    with pytest.raises(EngineNotBuilt, match=r"engine can't be read \(No such file or directory\)"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b"\xff"])
def test_a_damaged_side_file(machine, bundle, cache, content):
    build(bundle, cache)
    next(cache.glob("*.json")).write_bytes(content)
    with pytest.raises(EngineNotBuilt, match=r"json can't be used: it has \d+ wrong field"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)
    assert build(bundle, cache).seconds > 0


def test_a_side_file_whose_key_was_edited_is_not_believed(machine, bundle, cache):
    build(bundle, cache)
    path = next(cache.glob("*.json"))
    path.write_text(path.read_text().replace("10.3.0", "10.7.0"))
    machine.tensorrt = machine.trt.__version__ = "10.7.0"
    with pytest.raises(EngineNotBuilt, match="its name and content don't belong together"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tensorrt": "10.7.0"}, "it was built for TensorRT 10.3.0, here is 10.7.0"),
        ({"sm": (8, 9)}, "it was built for compute capability 8.7, here is 8.9"),
        ({"name": "Orin Nano"}, "it was built for GPU Orin, here is Orin Nano"),
        ({"cuda": 12080}, "it was built for CUDA 12.6, here is 12.8"),
    ],
)
def test_an_engine_of_another_tensorrt_or_gpu_is_not_opened_and_stays_until_the_new_one_is_proved(
    machine, bundle, cache, monkeypatch, changed, said
):
    old = build(bundle, cache).path
    other = StandIn(**changed).install(monkeypatch)
    with pytest.raises(EngineNotBuilt, match=said):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)
    other.build_fails_with = "Error Code 10: Internal Error"
    with pytest.raises(EngineError, match="Internal Error"):
        build(bundle, cache)
    assert old.exists()
    other.build_fails_with = None
    build(bundle, cache)
    assert scores_right(bundle, cache)
    assert other.broken == []
    assert (len(list(cache.glob("*.json"))), len(engine_files(cache))) == (2 if "sm" in changed else 1,) * 2


def test_what_the_key_does_not_show_tensorrt_itself_refuses(machine, bundle, cache):
    build(bundle, cache)
    machine.tensorrt = "10.3.1"  # the library was exchanged, but its Python side still says 10.3.0
    with pytest.raises(EngineNotBuilt, match="does not take the engine file: .* expecting library version 10.3.1 got"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


# --- the golden set --------------------------------------------------------------------------------------------------


def test_a_new_engine_that_disagrees_is_refused_and_the_old_one_serves_on(machine, bundle, cache):
    old = build(bundle, cache).path
    machine.changes_scores = says_wrong
    with pytest.raises(EngineError, match="The new engine is not used. .*disagrees with the golden set.*map_error is"):
        build(bundle, cache, batch_sizes=(1, 1, 2))
    machine.changes_scores = lambda scores: scores
    assert engine_files(cache) == [old]
    assert scores_right(bundle, cache)


def test_a_first_engine_that_disagrees_is_never_used_and_the_reason_is_kept(machine, bundle, cache):
    machine.changes_scores = says_wrong
    with pytest.raises(EngineError, match="disagrees with the golden set"):
        build(bundle, cache)
    machine.changes_scores = lambda scores: scores
    assert engine_files(cache) == []
    with pytest.raises(
        EngineNotBuilt, match="disagrees with the golden set .* map_error is 0.*Build it on this device"
    ):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)
    with pytest.raises(EngineError, match="Built on 20.*, it is not used. .*disagrees .* --rebuild tries again"):
        build(bundle, cache)  # as at every start of the agent: no minutes are spent on what is known
    assert len(machine.networks) == 1
    assert build(bundle, cache, rebuild=True).seconds > 0
    assert scores_right(bundle, cache)


def test_an_engine_that_is_wrong_in_its_largest_batch_alone_is_refused(machine, bundle, cache):
    machine.changes_scores = lambda scores: scores if len(scores["raw_score"]) == 1 else says_wrong(scores)
    build(bundle, cache)
    with pytest.raises(EngineError, match="disagrees with the golden set"):
        build(bundle, cache, batch_sizes=(1, 1, 4))


def test_what_one_golden_set_refused_another_may_take(machine, bundle, cache, tmp_path):
    machine.changes_scores = says_wrong
    with pytest.raises(EngineError, match="disagrees"):
        build(bundle, cache)
    wide = {"map_error": 1.0, "score_error": 1.0, "verdict_flips": 0}
    build(open_bundle(write_bundle(tmp_path / "wide", model=tiny_model(), limits=wide)), cache)


def test_nan_in_the_golden_set_is_a_disagreement(machine, bundle, cache):
    machine.changes_scores = lambda scores: {**scores, "image_score": scores["image_score"] * np.float32(np.nan)}
    with pytest.raises(EngineError, match="score_error is inf"):
        build(bundle, cache)


def test_the_same_model_with_another_golden_set_proves_itself_again(machine, bundle, cache, tmp_path):
    build(bundle, cache)
    machine.executions.clear()
    other = open_bundle(write_bundle(tmp_path / "other", model=tiny_model(), version=4))
    open_tensorrt(other, flavour="tensorrt", cache=cache).close()
    assert len(machine.executions) == 16
    assert side_of(cache)["proof"]["bundle"] == other.digest
    machine.executions.clear()
    open_tensorrt(other, flavour="tensorrt", cache=cache).close()
    assert machine.executions == []
    machine.changes_scores = says_wrong
    with pytest.raises(EngineNotBuilt, match="disagrees with the golden set"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


def test_an_engine_built_ahead_of_time_proves_itself_at_its_first_use(machine, bundle, cache):
    built = build(bundle, cache)
    stock = EngineCache(cache)
    (entry,) = stock.entries()
    key = entry.side.key.model_copy(update={"gpu": None, "cuda": None})
    plan = built.path.read_bytes()
    entry.path.unlink()
    stock.store(key, plan, product="dots", version=3, seconds=1.0, trtexec="")
    machine.executions.clear()
    assert scores_right(bundle, cache)
    assert len(machine.executions) == 17
    side = side_of(cache)
    assert (side["key"]["gpu"], side["key"]["cuda"]) == ("Orin", "12.6")
    assert side["proof"]["bundle"] == bundle.digest


def test_a_build_that_died_before_the_golden_set_is_proved_at_the_next_start(machine, bundle, cache):
    machine.fail_next["cuMemHostAlloc"] = "out of memory"
    with pytest.raises(OutOfMemory):
        build(bundle, cache)
    assert side_of(cache)["proof"] is None
    machine.changes_scores = says_wrong
    with pytest.raises(EngineNotBuilt, match="disagrees"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


def test_a_cache_that_can_only_be_read_serves_and_says_that_the_proof_is_not_noted(
    machine, bundle, cache, tmp_path, monkeypatch, caplog
):
    build(bundle, cache)
    other = open_bundle(write_bundle(tmp_path / "other", model=tiny_model(), version=4))

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("edge_agent.engines.tensorrt.cache.tempfile.NamedTemporaryFile", refuse)
    assert scores_right(other, cache)
    assert "can't be noted" in caplog.text
    assert "Read-only file system" in caplog.text


# --- builds that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logged", "kind", "said"),
    [
        (
            "[resizingAllocator.cpp::allocate::78] Error Code 2: OutOfMemory (Requested size was 905969664 bytes.)",
            OutOfMemory,
            "Out of memory while building the engine of .*905969664 bytes.*Nothing was written. .*--workspace-mib",
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", OutOfMemory, "Out of memory while building"),
        (
            "Error Code 10: Internal Error (Could not find any implementation for node score/Conv_0.)",
            EngineError,
            "The GPU failed while building the engine of .*: Error Code 10: .*node score/Conv_0",
        ),
        ("", EngineError, "it gave no reason"),
        ("Cuda Runtime (an illegal memory access was encountered)", DeviceLost, "CUDA is lost to this process"),
    ],
)
def test_a_build_that_fails_is_a_sentence_and_leaves_the_old_engine(machine, bundle, cache, logged, kind, said):
    old = build(bundle, cache).path
    machine.build_fails_with = logged
    with pytest.raises(kind, match=said) as caught:
        build(bundle, cache, rebuild=True)
    assert type(caught.value) is kind
    assert engine_files(cache) == [old]
    assert list(cache.glob("*.writing")) == []
    assert scores_right(bundle, cache)


def test_an_operation_that_tensorrt_does_not_know_is_named_with_its_node(machine, tmp_path, cache):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(tiny_model())
    model.graph.node[1].op_type, model.graph.node[1].domain = "Sparkle", "acme"
    model.graph.node[1].name = "score/sparkle_0"
    bundle = open_bundle(write_bundle(tmp_path / "bundle", model=model.SerializeToString()))
    with pytest.raises(
        EngineError,
        match=r"TensorRT 10.3.0 can't read .*model.onnx: node score/sparkle_0, operation Sparkle: Plugin not found, .*"
        r"Export the bundle again, update TensorRT, or run it with engine.kind onnxruntime",
    ):
        build(bundle, cache)
    assert engine_files(cache) == []


def test_ctrl_c_ends_the_build_and_writes_nothing(machine, bundle, cache):
    def interrupt(phase, share):
        if phase == "Building engine":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(bundle, cache, on_progress=interrupt)
    assert engine_files(cache) == []
    build(bundle, cache)


def test_a_full_disk_leaves_no_half_file_and_the_old_engine(machine, bundle, cache, monkeypatch):
    old = build(bundle, cache).path

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EngineError, match=r"can't be written \(No space left on device\). Make room"):
            build(bundle, cache, rebuild=True)
    assert engine_files(cache) == [old]
    assert list(cache.glob("*.writing")) == []
    assert scores_right(bundle, cache)


def test_what_a_killed_build_left_is_removed_by_the_next(machine, bundle, cache):
    cache.mkdir()
    (cache / "tmp123.writing").write_bytes(b"half")
    build(bundle, cache)
    assert list(cache.glob("*.writing")) == []


def test_two_builds_at_one_time_are_refused(machine, bundle, cache):
    with EngineCache(cache).locked(), pytest.raises(EngineError, match="Another build is under way in .*cache"):
        build(bundle, cache)
    build(bundle, cache)


def test_a_cache_that_can_not_be_made(machine, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"The engine cache .* can't be written .* name another folder with --cache"):
        build(bundle, tmp_path / "file" / "cache")


def test_no_cuda_at_all(bundle, cache, monkeypatch):
    machine = StandIn().install(monkeypatch)
    machine.fail_next["cuInit"] = "no CUDA-capable device is detected"
    with pytest.raises(EngineError, match="CUDA can't be used here: .*no CUDA-capable device.*engine.kind onnxruntime"):
        build(bundle, cache)
    machine.gpus = 0
    with pytest.raises(EngineError, match="CUDA sees no GPU here"):
        open_tensorrt(bundle, flavour="tensorrt", cache=cache)


def test_tensorrt_that_is_too_old(machine, bundle, cache):
    machine.trt.__version__ = "8.6.2"
    with pytest.raises(EngineError, match=r"TensorRT 8.6.2 is too old; 10.3 is the oldest that works"):
        build(bundle, cache)


# --- the timing cache ------------------------------------------------------------------------------------------------


def test_the_next_build_starts_from_what_the_last_one_measured(machine, bundle, cache):
    build(bundle, cache)
    build(bundle, cache, rebuild=True)
    assert machine.seen_timing == [b"", b" measured"]
    assert len(list(cache.glob("timing-10.3.0-sm87-*.timing"))) == 1


def test_an_altered_timing_cache_is_set_aside_with_a_warning(machine, bundle, cache, caplog):
    build(bundle, cache)
    path = timing.find(cache, "10.3.0", "8.7")
    path.write_bytes(path.read_bytes() + b"!")
    with caplog.at_level(logging.WARNING):
        build(bundle, cache, rebuild=True)
    assert machine.seen_timing == [b"", b""]
    assert f"{path} was altered after it was written. It is set aside as" in caplog.text
    assert [each.read_bytes() for each in cache.glob("*.altered")] == [b" measured!"]
    assert scores_right(bundle, cache)


def test_each_tensorrt_and_gpu_has_a_timing_cache_of_its_own(machine, bundle, cache, monkeypatch):
    build(bundle, cache)
    other = StandIn(sm=(8, 9), name="RTX 4070").install(monkeypatch)
    build(bundle, cache)
    assert other.seen_timing == [b""]


# --- how much is kept ------------------------------------------------------------------------------------------------


def test_of_a_product_the_new_engine_and_the_one_before_are_kept(machine, bundle, cache, tmp_path):
    limits = {"map_error": 1e-4, "score_error": 1e-3, "verdict_flips": 0}
    bundles = [bundle]
    for number in (4, 5):
        model = tiny_model(threshold=100.0 + number / 1000)
        bundles.append(open_bundle(write_bundle(tmp_path / f"{number}", model=model, version=number, limits=limits)))
    other_product = open_bundle(
        write_bundle(tmp_path / "other", model=tiny_model(threshold=100.01), name="rings", limits=limits)
    )
    build(other_product, cache)
    for each in bundles:
        build(each, cache)
    sides = [json.loads(path.read_text()) for path in cache.glob("*.json")]
    assert sorted((side["product"], side["bundle_version"]) for side in sides) == [
        ("dots", 4),
        ("dots", 5),
        ("rings", 3),
    ]
    assert len(engine_files(cache)) == 3
    assert scores_right(bundles[1], cache)
    with pytest.raises(EngineNotBuilt):
        open_tensorrt(bundles[0], flavour="tensorrt", cache=cache)


def test_batches_built_later_replace_the_engine_of_the_same_model(machine, bundle, cache):
    build(bundle, cache)
    second = build(bundle, cache, batch_sizes=(1, 1, 4))
    assert engine_files(cache) == [second.path]
    assert len(list(cache.glob("*.json"))) == 1
