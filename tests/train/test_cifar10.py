"""CIFAR-10's batches to ten categories: each image once, bit for bit, whichever version it comes from."""

import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.data.categories import find_categories
from train.data.check import check
from train.data.cifar10 import CLASSES, unpack_cifar10
from train.data.folder import DataError, open_dataset
from train.data.plain_pickle import read_plain_pickle

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
EACH = 20  # images per batch: two of each class


def content(position: int) -> tuple[np.ndarray, list[int]]:
    """Planes [n, 3072] as the batches hold them, and labels in a mixed order."""
    rng = np.random.default_rng(position)
    return rng.integers(0, 256, (EACH, 3072), np.uint8), rng.permutation(np.arange(EACH) % 10).tolist()


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """Protocol 2 as Python 2 wrote the published batches: every text a byte string, the array by numpy.core."""

    def text(value: bytes) -> bytes:
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<I", len(value))) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85" + text(b"b") + b"\x87Rq\x04"
    array += b"(K\x01" + number(images.shape[0]) + number(images.shape[1]) + b"\x86cnumpy\ndtype\n" + text(b"u1")
    array += b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    array += text(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    items = text(b"batch_label") + text(b"batch 1") + text(b"labels") + listed + text(b"data") + array
    return b"\x80\x02}q\x01(" + items + b"u."


def write_batches(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for position, name in enumerate(NAMES):
        images, labels = content(position)
        if version == "binary":
            records = np.concatenate([np.uint8(labels)[:, None], images], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif version == "python 2":
            (folder / name).write_bytes(python2_pickle(images, labels))
        else:
            batch = {b"labels": labels, b"data": images, b"filenames": [b"x_s_000001.png"] * EACH}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=int(version[-1])))
    if version == "binary":
        (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    else:
        meta = {"num_cases_per_batch": 10000, "label_names": list(CLASSES), "num_vis": 3072}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


@pytest.fixture
def batches(tmp_path) -> Path:
    return write_batches(tmp_path / "cifar-10-batches-bin", "binary")


def refusal(folder: Path, out: Path) -> str:
    with pytest.raises(DataError) as caught:
        unpack_cifar10(folder, out)
    assert "\n" not in str(caught.value)
    assert not list(out.glob("*/data.csv"))
    return str(caught.value).replace(f"{folder.parent}/", "")


@pytest.mark.parametrize("version", ["binary", "python 2", "protocol 2", "protocol 4"])
def test_every_version_gives_the_same_ten_categories(tmp_path, version):
    name = "cifar-10-batches-bin" if version == "binary" else "cifar-10-batches-py"
    write_batches(tmp_path / "archive" / name, version)
    notes = unpack_cifar10(tmp_path / "archive", tmp_path / "out")  # the folder above will do
    assert notes[0] == "100 training and 20 test images, each written once."
    assert "holds 20 images; the published one has 10000." in notes[1]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 120
    folders, skipped = find_categories(tmp_path / "out")
    assert [folder.name for folder in folders] == sorted(CLASSES) and not skipped
    images, labels = content(1)  # the second batch: numbers 20 to 39
    for index, label in enumerate(labels):
        path = tmp_path / "out" / CLASSES[label] / "images/train" / f"{20 + index:05d}.png"
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(rgb.transpose(2, 0, 1).ravel(), images[index])


def test_one_class_is_good_and_the_others_are_anomalies_by_name(batches, tmp_path):
    unpack_cifar10(batches, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out/cat")
    assert len(dataset.train) == 10 and len(dataset.test) == 20
    assert all("/cat/images/train/" in sample.path.resolve().as_posix() for sample in dataset.train)
    for sample in dataset.test:
        of = sample.path.resolve().parts[-4]
        assert sample.label == ("good" if of == "cat" else of)
    assert sorted({sample.label for sample in dataset.test}) == sorted({"good", *CLASSES} - {"cat"})
    assert [finding for finding in check(dataset) if finding.severity == "error"] == []


def test_what_a_stopped_call_wrote_is_kept_and_what_it_spoiled_is_written_again(batches, tmp_path):
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_cifar10(batches, out, progress=stop)
    written = sorted(out.rglob("*.png"))
    assert len(written) == 7 and not list(out.rglob("data.csv"))
    before = written[0].stat()
    written[1].write_bytes(written[1].read_bytes()[:50])  # as after a power cut
    unpack_cifar10(batches, out)
    assert (written[0].stat().st_ino, written[0].stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert cv2.imread(str(written[1])).shape == (32, 32, 3)
    assert len(open_dataset(out / "airplane").test) == 20


def test_batches_that_are_missing_cut_or_of_another_set(batches, tmp_path):
    out = tmp_path / "out"
    (batches / "batches.meta.txt").write_text("apple\nfish\n")
    assert "batches.meta.txt names the classes apple, fish, which are not CIFAR-10's" in refusal(batches, out)
    (batches / "batches.meta.txt").unlink()
    third = (batches / "data_batch_3.bin").read_bytes()
    (batches / "data_batch_3.bin").write_bytes(third[:-1])
    assert "data_batch_3.bin has 61459 bytes, which is no whole number of images of 3073 bytes." in refusal(
        batches, out
    )
    (batches / "data_batch_3.bin").write_bytes(b"\x0a" + third[1:])
    assert "data_batch_3.bin gives image 0 the label 10; there are 0 to 9." in refusal(batches, out)
    (batches / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin is missing. Copy the whole folder again: it holds six batches." in refusal(batches, out)


def test_folders_that_are_none_of_its_own(batches, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no batches of CIFAR-10: neither data_batch_1.bin" in refusal(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "cifar.tar.gz").touch()
    assert "Unpack the archive first (tar -xf)" in refusal(tmp_path / "cifar.tar.gz", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").touch()
    assert "holds thesis.tex, which is none of CIFAR-10's." in refusal(batches, tmp_path / "taken")


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, "has no labels."),
        ([1, 2], "has no data."),
        ({"data": np.zeros((2, 99), np.uint8), "labels": [0, 1]}, "data is no array of bytes with 3072 columns"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "data is no array of bytes with 3072 columns"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "1"]}, "labels is no list of numbers from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "holds 2 images and 1 labels"),
    ],
)
def test_a_pickle_of_something_else(tmp_path, batch, says):
    folder = write_batches(tmp_path / "cifar-10-batches-py", "protocol 2")
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    assert says in refusal(folder, tmp_path / "out")


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def read(tmp_path: Path, data: bytes) -> object:
    (tmp_path / "file").write_bytes(data)
    return read_plain_pickle(tmp_path / "file")


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_would_run_something_runs_nothing(tmp_path, protocol):
    trap = tmp_path / "ran"
    with pytest.raises(DataError, match="and only lists, numbers and arrays belong there. Nothing of it was executed"):
        read(tmp_path, pickle.dumps({"data": Evil(trap)}, protocol=protocol))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))  # the trap would have worked
    assert trap.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "asks for builtins.eval"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "asks for an unusual call of numpy.dtype"),
        (b"\x80\x02cnumpy\nndarray\n(R.", "is damaged"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "asks for an unusual call of numpy.ndarray"),
        (b"\x80\x02]}b.", "asks for an object with a state of its own"),
        (b"\x80\x02Pfile\n.", "asks for the instruction PERSID"),
        (b"\x80\x04\x82\x01.", "asks for the instruction EXT1"),
        (b"\x80\x02K\x01K\x02", "is damaged"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02\x87.", "is damaged"),
        (b"e.", "is damaged"),
        (b"\x80\x02}]K\x01s.", "is damaged (a key that is no text)"),
        (b"PK\x03\x04", "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_programs_that_are_no_plain_values(tmp_path, program, says):
    with pytest.raises(DataError) as caught:
        read(tmp_path, program)
    assert says in str(caught.value).replace(f"{tmp_path}/", "")


def test_an_array_whose_shape_and_bytes_disagree_is_damaged(tmp_path):
    whole = pickle.dumps(np.zeros((2, 3), np.uint8), protocol=2)
    assert whole.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(DataError, match="an array whose size and contents disagree"):
        read(tmp_path, whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values_come_back_as_they_were(tmp_path, protocol):
    shared = [1, -2, 2**40]
    value = {
        "a": shared,
        "b": (shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        3: {"x": None},
        "é": [True, False, 0.5],
    }
    assert read(tmp_path, pickle.dumps(value, protocol=protocol)) == value
    assert read(tmp_path, pickle.dumps(b"\x00\xff bytes", protocol=protocol)) == b"\x00\xff bytes"
    if protocol >= 2:
        for array in (
            np.arange(6, dtype=">i4").reshape(2, 3),
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
            np.array(7),
        ):
            found = read(tmp_path, pickle.dumps([array], protocol=protocol))[0]
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_batch_that_ends_too_early_is_a_sentence(tmp_path, length):
    whole = python2_pickle(np.zeros((1, 300), np.uint8), [3])
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path, whole[: min(length, len(whole) - 1)])


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.plain_pickle.MAX_BYTES", 10)
    with pytest.raises(DataError, match="too many for such a file"):
        read(tmp_path, pickle.dumps([1] * 99))
