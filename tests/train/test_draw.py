"""The drawn product line: exact masks, the same bytes for the same seed, good parts alike and defects that show."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.data.check import check
from train.data.draw import draw_product_line
from train.data.drawn_defects import DEFECTS
from train.data.drawn_parts import draw_part
from train.data.folder import DataError, digest, open_dataset

SMALL = {"size": 64, "train": 3, "test_good": 2, "defects_per_type": 2}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_it_is_the_mvtec_layout_with_a_mask_for_each_defect(tmp_path):
    draw_product_line(tmp_path / "line", **SMALL)
    dataset = open_dataset(tmp_path / "line")
    assert dataset.layout == "mvtec" and dataset.skipped == ()
    assert len(dataset.train) == 3
    labels = [sample.label for sample in dataset.test]
    assert {label: labels.count(label) for label in labels} == {"good": 2, **dict.fromkeys(DEFECTS, 2)}
    assert {"scratch", "stain", "missing_piece"} <= set(DEFECTS)
    for sample in dataset.test:
        image = cv2.imread(str(sample.path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        if sample.mask:
            assert set(np.unique(cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED))) == {0, 255}
        assert (sample.mask is None) == sample.is_good


def test_the_default_line_passes_the_check_of_the_data(tmp_path):
    draw_product_line(tmp_path / "line", size=64)
    assert check(open_dataset(tmp_path / "line")) == []


def test_one_seed_gives_the_same_bytes_and_another_seed_other_ones(tmp_path):
    draw_product_line(tmp_path / "a", **SMALL)
    draw_product_line(tmp_path / "b", **SMALL)
    draw_product_line(tmp_path / "c", **SMALL, seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert digest(open_dataset(tmp_path / "a")) == digest(open_dataset(tmp_path / "b"))
    images = list(contents(tmp_path / "a").values()) + list(contents(tmp_path / "c").values())
    pictures = [data for data in images if len(data) > 2000]  # masks are a few hundred bytes and may well agree
    assert len(set(pictures)) == len(pictures) == 2 * 13


def test_a_larger_line_begins_with_the_smaller_one(tmp_path):
    draw_product_line(tmp_path / "a", **SMALL)
    draw_product_line(tmp_path / "b", size=64, train=5, test_good=3, defects_per_type=3)
    assert contents(tmp_path / "a").items() < contents(tmp_path / "b").items()


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("label", sorted(DEFECTS))
def test_the_mask_is_where_the_defect_is_and_nowhere_else(label, size):
    """Against the same part drawn without the defect, whose sensor noise is the same."""
    for n in range(6):
        clean, nothing = draw_part([7, n], size)
        image, mask = draw_part([7, n], size, DEFECTS[label], 0.8)
        difference = np.abs(image.astype(int) - clean).max(axis=-1)
        assert not nothing.any()
        assert difference[~mask].max() <= 4  # grey levels: the limit of 2, and rounding and noise of the two pictures
        assert np.median(difference[mask]) >= 8
        assert 0.0004 < mask.mean() < 0.06


@pytest.mark.parametrize("label", sorted(DEFECTS))
def test_strength_makes_a_defect_plainer(label):
    def change(strength: float) -> float:
        total = 0
        for n in range(8):
            image = draw_part([3, n], 96, DEFECTS[label], strength)[0]
            total += np.abs(image.astype(int) - draw_part([3, n], 96)[0]).sum()
        return float(total)

    assert 0 < change(0.4) < 0.8 * change(0.7) < 0.8 * change(1.0)


def test_good_parts_lie_and_shine_a_little_differently():
    good = np.stack([draw_part([0, 0, n], 128)[0] for n in range(12)]).astype(np.float32)
    spread = np.abs(good - np.median(good, axis=0)).mean(axis=(1, 2, 3))  # grey levels
    assert spread.min() > 1.0, "all parts are alike: there is nothing to learn"
    assert spread.max() < 12.0, "parts differ so much that no small defect could show"
    assert np.std(good[0] - cv2.GaussianBlur(good[0], (0, 0), 1.0)) > 0.5, "there is no sensor noise"


def test_it_asks_for_a_new_folder_and_for_sensible_numbers(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("")
    for name, says in (("full", "full is not empty. Give a new folder"), ("file", "file is a file. Give a new folder")):
        with pytest.raises(DataError, match=says):
            draw_product_line(tmp_path / name, **SMALL)
    for wrong, says in (
        ({"size": 8}, "size is 8. Give a whole number from 32 to 4096."),
        ({"train": 0}, "train is 0. Give a whole number from 1 to 100000."),
        ({"seed": -1}, "seed is -1. Give a whole number from 0"),
        ({"defects_per_type": -2}, "defects_per_type is -2."),
    ):
        with pytest.raises(DataError) as caught:
            draw_product_line(tmp_path / "new", **{**SMALL, **wrong})
        assert str(caught.value).startswith(says)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_an_empty_folder_and_a_deep_new_one_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    draw_product_line(tmp_path / "empty", **SMALL)
    draw_product_line(tmp_path / "a" / "b", **SMALL)
    assert contents(tmp_path / "empty") == contents(tmp_path / "a" / "b")


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        assert total == 13
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_product_line(tmp_path / "line", **SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        DataError, match=r"line can't be written \(No space left on device\)\. Check the path and the spa"
    ):
        draw_product_line(tmp_path / "line", **SMALL)
    assert list(tmp_path.iterdir()) == []
