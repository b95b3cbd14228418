"""Our Protocols for TensorRT and PyCUDA name only what exists: each name and signature against what is installed."""

import ast
import importlib.util
import inspect
import re
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest

from edge_agent.engines import EngineError
from edge_agent.engines.tensorrt import api

OF_PYCUDA = ("DeviceAllocation", "PagelockedHostAllocation", "Stream", "Context", "Device")
MODULES = ("TensorRT", "CudaDriver")
PROTOCOLS = [
    name
    for name, value in vars(api).items()
    if inspect.isclass(value) and getattr(value, "_is_protocol", False) and value.__module__ == api.__name__
]
OF_TENSORRT = [name for name in PROTOCOLS if name not in (*OF_PYCUDA, *MODULES)]

# pycuda.driver can't be imported without a driver. What boost::python is told in PyCUDA 2026.1, in
# src/wrapper/wrap_cudadrv.cpp: parameters in order, * for those with a default; None for what is no function.
PYCUDA_2026_1: dict[str, dict[str, list[str] | None]] = {
    "driver": {
        "init": ["flags*"],
        "get_driver_version": [],
        "mem_get_info": [],
        "mem_alloc": ["bytes"],
        "pagelocked_empty": ["shape", "dtype", "order*", "mem_flags*"],
        "memcpy_htod_async": ["dest", "src", "stream*"],
        "memcpy_dtoh_async": ["dest", "src", "stream*"],
        "Error": None,
        "Context": None,
        "Device": None,
        "Stream": None,
    },
    "Device": {"name": [], "compute_capability": [], "retain_primary_context": [], "count": []},
    "Context": {"push": [], "pop": [], "detach": []},
    "Stream": {"handle": None, "synchronize": []},
    "DeviceAllocation": {"free": [], "__int__": []},
    "PagelockedHostAllocation": {"free": []},
}
SAME = {  # what we write -> what pybind11 writes
    "int": {"int", "SupportsInt"},
    "str": {"str"},
    "bool": {"bool"},
    "Buffer": {"Buffer", "buffer"},
    "Shape": {"Dims", "tuple", "list"},
    "list[Shape]": {"list[Dims]", "List[Dims]"},
    "ParserError": {"IParserError"},
}


def members(protocol: type) -> dict[str, typing.Any]:
    """Name -> what the Protocol says of it: a function, a property, or an annotation."""
    own = {name: value for name, value in vars(protocol).items() if not name.startswith("_") or name == "__int__"}
    own.pop("__int__", None)
    return {**dict.fromkeys(protocol.__annotations__), **own}


def source_signature(protocol: str, method: str) -> tuple[list[tuple[str, str, bool]], str]:
    """[(name, type as written, has a default)], result, as api.py has it."""
    for node in ast.walk(ast.parse(inspect.getsource(api))):
        if isinstance(node, ast.ClassDef) and node.name == protocol:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == method:
                    arguments = [a for a in part.args.args if a.arg != "self"]
                    first_default = len(arguments) - len(part.args.defaults)
                    return [
                        (a.arg, ast.unparse(a.annotation), place >= first_default) for place, a in enumerate(arguments)
                    ], ast.unparse(part.returns)
    raise AssertionError(f"{protocol}.{method} is not in api.py")


def pybind_signatures(function: typing.Any, name: str) -> list[tuple[list[tuple[str, str, bool]], str]]:
    """All overloads that a pybind11 docstring holds: [(name, type, has a default)], result."""
    found = []
    for line in function.__doc__.splitlines():
        match = re.match(rf"(?:\d+\. )?{name}\((.*)\) -> (.+)$", line.strip())
        if match and match[1] != "*args, **kwargs":
            text = re.sub(r"(?:\w+(?:\.|::))+(\w+)", r"\1", match[1])
            text = re.sub(r"<[^>]*>", "0", text)
            parts = [part.strip() for part in re.split(r", (?=\w+: )", text) if part.strip()]
            arguments = []
            for part in parts:
                argument, _, kind = part.partition(": ")
                kind, _, default = kind.partition(" = ")
                if argument != "self":
                    arguments.append((argument, kind, bool(default)))
            found.append((arguments, re.sub(r"(?:\w+(?:\.|::))+(\w+)", r"\1", match[2])))
    assert found, f"{name} has no signature: {function.__doc__}"
    return found


def fits(ours: str, theirs: str) -> bool:
    options = [option.strip() for option in ours.split("|")]
    for option in options:
        if option in ("Enum", "Any"):  # which enumeration it is shows at its use
            return True
        if theirs in SAME.get(option, {option}):
            return True
    return False


def calls_for(ours, theirs) -> bool:
    """Whether a call by our signature, by position or by name, is right by theirs."""
    for mine, other in zip(ours, theirs, strict=False):
        if mine[0] != other[0] or not fits(mine[1], other[1]) or (mine[2] and not other[2]):
            return False
    return len(ours) <= len(theirs) and all(other[2] for other in theirs[len(ours) :])


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (pip install tensorrt-rtx)")


@pytest.mark.parametrize("protocol", OF_TENSORRT)
def test_every_member_of_tensorrt_exists_with_its_signature(rtx, protocol):
    real = getattr(rtx, protocol)
    ours = members(getattr(api, protocol))
    assert ours
    for name, value in ours.items():
        assert hasattr(real, name), f"TensorRT's {protocol} has no {name}"
        found = inspect.getattr_static(real, name)
        if inspect.isfunction(value):
            assert not isinstance(found, property), f"{protocol}.{name} is a property"
            mine, result = source_signature(protocol, name)
            overloads = pybind_signatures(getattr(real, name), name)
            assert any(calls_for(mine, theirs) for theirs, _ in overloads), f"{protocol}.{name}: {mine}, {overloads}"
            assert any(fits(result, theirs) for _, theirs in overloads), f"{protocol}.{name}: {result}, {overloads}"
        else:
            assert isinstance(found, property), f"{protocol}.{name} is no property"
            assert value is not None or found.fset is not None or protocol in ("ITensor", "ILayer"), (
                f"{name} is read only"
            )


def test_every_name_that_we_take_from_the_module_exists(rtx):
    for name in members(api.TensorRT):
        assert hasattr(rtx, name), name
    for enumeration, member in [
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("BuilderFlag", "TF32"),
        ("MemoryPoolType", "WORKSPACE"),
        ("TensorIOMode", "INPUT"),
        ("DataType", "UINT8"),
        ("DataType", "FLOAT"),
        ("ComputeCapability", "CURRENT"),
    ]:
        assert member in getattr(rtx, enumeration).__members__, f"{enumeration}.{member}"
    for base, method, ours in [
        ("ILogger", "log", ["severity", "msg"]),
        ("IProgressMonitor", "phase_start", ["phase_name", "parent_phase", "num_steps"]),
        ("IProgressMonitor", "step_complete", ["phase_name", "step"]),
        ("IProgressMonitor", "phase_finish", ["phase_name"]),
    ]:
        ((theirs, _),) = pybind_signatures(getattr(getattr(rtx, base), method), method)
        assert [name for name, _, _ in theirs] == ours
    for maker, arguments in [("Builder", 1), ("OnnxParser", 2), ("Runtime", 1)]:
        ((theirs, _),) = pybind_signatures(getattr(rtx, maker).__init__, "__init__")
        assert len(theirs) == arguments, maker


def test_every_attribute_that_our_code_takes_of_the_module_is_in_the_protocol():
    folder = Path(inspect.getfile(api)).parent
    for name in ("build", "log", "open", "progress", "runtime", "cuda"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "trt":
                    assert node.attr in members(api.TensorRT), f"{name}.py takes trt.{node.attr}"
                if node.value.id == "driver":
                    assert node.attr in members(api.CudaDriver), f"{name}.py takes driver.{node.attr}"


@pytest.mark.parametrize("protocol", [*OF_PYCUDA, "CudaDriver"])
def test_every_member_of_pycuda_exists_with_its_parameters(protocol):
    table = PYCUDA_2026_1["driver" if protocol == "CudaDriver" else protocol]
    for name, value in members(getattr(api, protocol)).items():
        assert name in table, f"PyCUDA's {protocol} has no {name}"
        theirs = table[name]
        assert inspect.isroutine(value) == (theirs is not None), name
        if theirs is not None:
            mine, _ = source_signature(protocol, name)
            assert [argument + "*" * optional for argument, _, optional in mine] == theirs, name


def test_the_table_is_what_an_installed_pycuda_has():
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed; the table was read from its source")
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        pytest.skip(f"pycuda.driver needs NVIDIA's driver: {error}")
    for name in PYCUDA_2026_1["driver"]:
        assert hasattr(driver, name), name
    for kind in OF_PYCUDA:
        for name in PYCUDA_2026_1[kind]:
            assert hasattr(getattr(driver, kind), name), f"{kind}.{name}"


def test_the_stand_in_has_all_that_the_protocols_name():
    """What the product may call, the tests' stand-in answers; else a test would pass for want of an attribute."""
    from cuda_stand_in import StandIn

    machine = StandIn()
    missing = [name for name in members(api.CudaDriver) if not hasattr(machine.driver, name)]
    assert missing == []
    rtx_only = {"ComputeCapability"}
    assert {name for name in members(api.TensorRT) if not hasattr(machine.trt, name)} == rtx_only


@pytest.mark.parametrize(
    ("flavour", "jetson", "said"),
    [
        ("tensorrt", False, r"TensorRT is not installed .*On x86: pip install 'faultline\[tensorrt\]'"),
        (
            "tensorrt",
            True,
            "On a Jetson it is JetPack's own: apt-get install python3-libnvinfer, .*system-site-packages",
        ),
        ("tensorrt_rtx", False, r"TensorRT-RTX is not installed .*pip install 'faultline\[rtx\]'"),
    ],
)
def test_what_is_missing_is_said_with_what_to_install(monkeypatch, tmp_path, flavour, jetson, said):
    monkeypatch.setitem(sys.modules, flavour, None)
    (tmp_path / "nv_tegra_release").touch()
    monkeypatch.setattr(api, "JETSON", tmp_path / ("nv_tegra_release" if jetson else "none"))
    with pytest.raises(EngineError, match=said):
        api.load(flavour)


def test_a_library_that_tensorrt_lacks_is_named(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvonnxparser.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"installed but can't be loaded: libnvonnxparser.so.11: cannot open"):
        api.load("tensorrt")


def test_no_driver_library_is_a_sentence(monkeypatch, tmp_path):
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    driver = tmp_path / "pycuda" / "driver.py"
    driver.write_text("raise ImportError('libcuda.so.1: cannot open shared object file: No such file or directory')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(EngineError, match="libcuda.so.1: cannot open .* Without NVIDIA's driver there is no CUDA here"):
        api.load_driver()


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("10.3.0", (10, 3, 0)), ("11.4.0.106", (11, 4, 0, 106)), ("10.3.0.post1", (10, 3, 0)), ("x", ())],
)
def test_versions(version, numbers):
    assert api.version_numbers(version) == numbers
