"""TensorRT-RTX itself, with no GPU and no driver: what it builds ahead of time, and what it says where it can't."""

import importlib.util
import json
import sys
from hashlib import sha256

import pytest
from cuda_stand_in import StandIn
from tiny_bundle import tiny_model, write_bundle
from typer.testing import CliRunner

from edge_agent.__main__ import app
from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError, EngineNotBuilt
from edge_agent.engines.tensorrt import build_engine, open_tensorrt
from edge_agent.engines.tensorrt.cache import EngineCache

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt_rtx is not installed (pip install tensorrt-rtx)", allow_module_level=True)
import tensorrt_rtx


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("rtx") / "bundle", model=tiny_model()))


def build(bundle, cache, **options):
    return build_engine(bundle, flavour="tensorrt_rtx", cache=cache, **options)


def typed(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("target", "sm"), [("sm86", "8.6"), ("sm89", "8.9"), ("sm120", "12.0")])
def test_a_plan_is_built_and_kept_as_not_proved(bundle, tmp_path, target, sm):
    shares = []
    built = build(
        bundle, tmp_path, target=target, batch_sizes=(1, 1, 8), on_progress=lambda phase, share: shares.append(share)
    )
    (entry,) = EngineCache(tmp_path).entries()
    assert (entry.side.key.sm, entry.side.key.gpu, entry.side.key.cuda) == (sm, None, None)
    assert entry.side.key.tensorrt == tensorrt_rtx.__version__
    assert built.proof is entry.side.proof is None
    assert sha256(built.path.read_bytes()).hexdigest() == entry.side.sha256
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert "--maxShapes=image:8x12x16x3" in built.trtexec
    assert built.trtexec.startswith("tensorrt_rtx ")
    assert build(bundle, tmp_path, target=target, batch_sizes=(1, 1, 8)).seconds == 0.0


def test_it_is_not_opened_without_a_device_nor_on_another_gpu(bundle, tmp_path, monkeypatch):
    build(bundle, tmp_path, target="sm86")
    machine = StandIn(sm=(8, 9), name="RTX 4070", tensorrt=tensorrt_rtx.__version__)
    machine.install(monkeypatch, "tensorrt_rtx")
    with pytest.raises(EngineNotBuilt, match="it was built for compute capability 8.6, here is 8.9"):
        open_tensorrt(bundle, flavour="tensorrt_rtx", cache=tmp_path)
    monkeypatch.undo()
    machine.fail_next["cuInit"] = "no CUDA-capable device is detected"
    machine.install(monkeypatch, "no_tensorrt")
    with pytest.raises(EngineError, match="no CUDA-capable device is detected"):
        open_tensorrt(bundle, flavour="tensorrt_rtx", cache=tmp_path)


def test_for_this_device_it_needs_one(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineError, match="To build ahead of time for a GPU that is not here, give --target sm86"):
        build(bundle, tmp_path)


def test_an_unknown_target_is_answered_with_those_that_it_builds_for(bundle, tmp_path):
    for target in ("sm99", "none", "current", "sm"):
        with pytest.raises(EngineError, match=f"--target {target} is no GPU .* builds for: .*sm86, sm89, sm120"):
            build(bundle, tmp_path, target=target)


def test_tensorrts_own_parser_names_node_and_operation(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(tiny_model())
    model.graph.node[2].op_type, model.graph.node[2].name = "Det", "score/det_0"
    del model.graph.node[2].input[1:]
    bundle = open_bundle(write_bundle(tmp_path / "bundle", model=model.SerializeToString()))
    with pytest.raises(EngineError, match=r"can't read .*model.onnx: node score/det_0, operation Det: "):
        build(bundle, tmp_path / "cache", target="sm86")
    assert not list((tmp_path / "cache").glob("*.engine"))


def test_what_is_no_model_is_a_sentence(tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    with pytest.raises(EngineError, match="Failed to parse the ONNX model"):
        build(bundle, tmp_path / "cache", target="sm86")


def test_a_model_of_one_fixed_batch_is_a_sentence(tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model(batch=2)))
    with pytest.raises(EngineError, match="[Bb]atch|[Pp]rofile|shape"):
        build(bundle, tmp_path / "cache", target="sm86", batch_sizes=(1, 1, 4))


def test_ctrl_c_ends_tensorrts_own_build(bundle, tmp_path):
    def interrupt(phase, share):
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(bundle, tmp_path, target="sm86", on_progress=interrupt)
    assert not list(tmp_path.glob("*.engine"))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_builds_tells_and_says_that_nothing_is_proved(bundle, tmp_path):
    code, out, err = typed("build", bundle.folder, "--cache", tmp_path, "--target", "sm89", "--batch", "1,8")
    assert code == 0, err
    assert "it is not proved on a device, and proves itself on the golden set at its first use" in out
    assert "tensorrt_rtx --onnx=" in out
    assert "--optShapes=image:1x12x16x3 --maxShapes=image:8x12x16x3" in out
    assert "reading the model" in err
    code, out, _ = typed("build", bundle.folder, "--cache", tmp_path, "--target", "sm89", "--batch", "1,8", "--json")
    said = json.loads(out)
    assert (code, said["seconds"], said["proved"], said["golden"]) == (0, 0.0, False, None)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--batch", "many"], 2, "--batch is 'many'. Give the largest batch"),
        (["--batch", "8,1"], 2, "--batch is '8,1'"),
        (["--engine", "onnxruntime"], 2, "--engine onnxruntime needs no building. Give tensorrt or tensorrt_rtx"),
        (["--batch", "²"], 2, "--batch is '²'"),
        (["--target", "sm86", "--engine", "tensorrt"], 2, "Only TensorRT-RTX builds ahead of time"),
        (["--target", "sm85"], 2, "--target sm85 is no GPU that TensorRT-RTX"),
        (["--target", "sm86", "--optimization-level", "9"], 2, "it goes from 0 to 5"),
    ],
)
def test_the_command_refuses_with_a_sentence_and_its_exit_code(bundle, tmp_path, arguments, code, said):
    found, out, err = typed("build", bundle.folder, "--cache", tmp_path, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_the_command_refuses_a_bundle_that_is_none(tmp_path):
    assert typed("build", tmp_path / "nothing")[0] == 2
    (tmp_path / "bundle").mkdir()
    assert typed("build", tmp_path / "bundle")[0] == 2


def test_progress_tells_tenths_and_the_time_that_is_left():
    from edge_agent.build import Progress

    said, now = [], [0.0]
    progress = Progress(said.append, clock=lambda: now[0])
    for second in range(101):
        now[0] = float(second)
        progress("Timing tactics", second / 100)
    progress("checking the golden set", 1.0)
    assert len(said) == 12
    assert said[2] == " 20%  0:20 min  Timing tactics  (about 1:20 min left)"
    assert said[-1] == "100%  1:40 min  checking the golden set"
