"""MNIST's IDX files to categories, and what is wrong with files that are not."""

import gzip
import struct

import cv2
import numpy as np
import pytest

from train.data.folder import open_dataset
from train.data.mnist import read_idx, unpack_mnist
from train.data.samples import DataError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def files(tmp_path):
    """Three digits of each class to train on, two to test, gzipped but for one; every image a colour of its own."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, each in (("train", 3), ("t10k", 2)):
        labels = np.repeat(np.arange(10), each)
        images = np.broadcast_to(np.arange(len(labels))[:, None, None], (len(labels), 28, 28))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_one_digit_is_good_and_the_others_are_not(files, tmp_path):
    out, seen = tmp_path / "out", []
    notes = unpack_mnist(files, out, progress=lambda done, total: seen.append((done, total)))
    assert notes == ["30 training and 20 test images, each written once."]
    assert seen[-1] == (50, 50)
    dataset = open_dataset(out / "2")
    assert [sample.path.name for sample in dataset.train] == ["00006.png", "00007.png", "00008.png"]
    assert sum(sample.is_good for sample in dataset.test) == 2
    assert {sample.label for sample in dataset.test} == {"good", *"013456789"}
    image = cv2.imread(str(dataset.train[1].path))
    assert image.shape == (28, 28, 3)
    assert (image == 7).all()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte.gz", None, "has no train-images-idx3-ubyte .or .gz."),
        ("t10k-labels-idx1-ubyte", b"%PNG", "is no IDX file of bytes"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(20))[:-1], "says it holds 20 bytes, and holds 19. Copy it again"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(19)), "do not belong together"),
        ("t10k-labels-idx1-ubyte", idx(np.full(20, 10)), "gives image 0 the label 10"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "can't be read"),
    ],
)
def test_a_damaged_set_is_a_sentence_and_nothing_is_written(files, tmp_path, name, content, sentence):
    if content is None:
        (files / name).unlink()
    else:
        (files / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        unpack_mnist(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="is no folder. Give the one that holds MNIST's four IDX files"):
        unpack_mnist(tmp_path / "no", tmp_path / "out")


def test_axes_are_as_the_file_says(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(idx(np.arange(24).reshape(2, 3, 4)))
    np.testing.assert_array_equal(read_idx(path), np.arange(24).reshape(2, 3, 4))
