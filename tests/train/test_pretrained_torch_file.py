""".pth files are read without running them: tensors come out, and anything else ends the reading."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import Call, Global, command, drawn_state, write_legacy, write_safetensors, write_torch

from train.backbones import find_backbone
from train.backbones.errors import WeightsError
from train.backbones.pretrained import load_pretrained
from train.backbones.weight_file import open_weights

STATE = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b": np.array(2.5, np.float64),
    "c": np.float16([1, 2]),
    "n": np.array(3),
    "empty": np.zeros((0, 4), np.float32),
}


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        open_weights(path)
    return str(refused.value)


def test_tensors_come_out_as_they_went_in(tmp_path):
    file = open_weights(write_torch(tmp_path / "w.pth", STATE))
    assert file.shapes == {key: array.shape for key, array in STATE.items()}
    for key, array in STATE.items():
        np.testing.assert_array_equal(file.read(key), array)
    assert file.read("a.weight").dtype == np.float32
    assert file.read("b").dtype == np.float64


def test_what_pytorch_itself_writes(tmp_path):
    """Strided and shared tensors, parameters, bfloat16, and the attributes that a state dict carries."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    base = torch.arange(24.0).reshape(4, 6)
    state = network.state_dict()
    state["view"] = base[1:3, 2:5].t()
    state["base"] = base
    state["brief"] = torch.tensor([1.5, -2.0]).bfloat16()
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(state, tmp_path / "w.pth")
    file = open_weights(tmp_path / "w.pth")
    assert file.shapes == {key: tuple(value.shape) for key, value in state.items()}
    for key, value in state.items():
        np.testing.assert_array_equal(file.read(key), value.detach().double().numpy())


def test_what_pytorch_wrote_before_2020(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "w.pth", write_legacy(tmp_path / "drawn.pth")):
        text = refusal(path)
        assert text.startswith(f"{path} is in PyTorch's format of before 2020, which can't be read without running it.")
        assert "torch.save(torch.load(FILE, weights_only=True), NEW_FILE)" in text


@pytest.mark.parametrize("hidden", ["as a value", "as a key", "in a wrapper"])
def test_a_command_is_named_and_never_run(tmp_path, hidden):
    ran = tmp_path / "ran"
    call = command(f"touch {ran}")
    also = {"as a value": {"x": call}, "as a key": {("x",): [call]}, "in a wrapper": {"x": {"y": call}}}[hidden]
    path = write_torch(tmp_path / "w.pth", STATE, also=also)
    text = refusal(path)
    assert f"{path} holds os.system, which is no tensor; nothing of it was run." in text
    assert not ran.exists()
    with zipfile.ZipFile(path) as archive:  # the file is a working trap: Python's own reader springs it
        trap = archive.read("archive/data.pkl")
    with pytest.raises(pickle.UnpicklingError, match="persistent"):
        pickle.loads(trap)
    alone = tmp_path / "alone.pth"
    with zipfile.ZipFile(alone, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(Vtouch " + str(ran).encode() + b"\ntR.")
    assert "holds os.system" in refusal(alone)
    assert not ran.exists()
    with zipfile.ZipFile(alone) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert ran.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "torch load", "torch.storage _load_from_bytes", "collections Counter"],
)
def test_no_other_name_is_known(tmp_path, name):
    module, function = name.split()
    path = write_torch(tmp_path / "w.pth", STATE, also={"x": Call(Global(module, function), "1")})
    assert f"holds {module}.{function}, which is no tensor" in refusal(path)


def test_a_state_that_tries_to_change_the_reader(tmp_path):
    """BUILD gives an object new attributes; what stands for PyTorch's functions takes none."""
    bend = b"ctorch._utils\n_rebuild_tensor_v2\n}Vfunction\nI1\nsb."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", bend)
    assert "can't be read" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("extra", [{"epoch": 3}, {"note": "text"}, {"nested": {"a": 1}}, {"list": [1]}])
def test_anything_but_tensors(tmp_path, extra):
    path = write_torch(tmp_path / "w.pth", STATE, also=extra)
    assert f"{path}: {next(iter(extra))} is no tensor. Save the state dict alone" in refusal(path)


def test_zips_that_are_something_else(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    assert "is a zip, but not one that torch.save wrote: it has no data.pkl." in refusal(tmp_path / "w.npz")
    path = write_torch(tmp_path / "packed.pth", STATE, compression=zipfile.ZIP_DEFLATED)
    assert "is a compressed zip; PyTorch's files are not." in refusal(path)
    with zipfile.ZipFile(tmp_path / "list.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1, 2], protocol=2))
    assert "holds no state dict." in refusal(tmp_path / "list.pth")
    with zipfile.ZipFile(write_torch(tmp_path / "big.pth", {}), "a") as archive, pytest.warns(UserWarning, match="Dup"):
        archive.writestr("archive/byteorder", "big")
    assert "big-endian" in refusal(tmp_path / "big.pth")


def test_a_tensor_that_reaches_past_its_storage(tmp_path):
    path = write_torch(tmp_path / "w.pth", {"a": np.ones(4, np.float32)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data/0"] = members["archive/data/0"][:-4]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match="reaches past the end of archive/data/0"):
        open_weights(path).read("a")


def test_a_storage_that_is_missing(tmp_path):
    path = write_torch(tmp_path / "w.pth", {"a": np.ones(4, np.float32)})
    with zipfile.ZipFile(path) as archive:
        content = archive.read("archive/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(WeightsError, match="can't be read"):
        open_weights(path).read("a")


def test_a_truncated_file(tmp_path):
    path = write_torch(tmp_path / "w.pth", STATE)
    path.write_bytes(path.read_bytes()[:-30])  # a zip's table of contents is at its end
    assert refusal(path).startswith(f"{path} can't be read")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**16), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_pickle_is_refused_or_harmless(tmp_path, place, value, cut):
    """Whatever byte is wrong: tensors or WeightsError, nothing else."""
    with zipfile.ZipFile(write_torch(tmp_path / "w.pth", STATE)) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    content = members["archive/data.pkl"]
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] = value
    with zipfile.ZipFile(tmp_path / "damaged.pth", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, bytes(data))
    try:
        file = open_weights(tmp_path / "damaged.pth")
        for key in file.shapes:
            file.read(key)
    except WeightsError:
        pass


def test_a_network_from_a_file_of_either_kind_is_one(tmp_path):
    backbone = find_backbone("mobilenet_v1_025")
    state = drawn_state(backbone)
    one = load_pretrained(backbone, write_torch(tmp_path / "w.pth", state), 64)
    other = load_pretrained(backbone, write_safetensors(tmp_path / "w.safetensors", state), 64)
    np.testing.assert_array_equal(one.pairs[10].pointwise.kernel[...], other.pairs[10].pointwise.kernel[...])
