"""BTAD as generators and segmenters read it: a tree drawn as the set is published, ten defects to learn from."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.preprocess import read_mask
from train.data.categories import find_categories
from train.data.defect_check import check_defects
from train.data.defects import open_defects
from train.data.samples import DataError

# Suffixes of images and masks, which the three products do not share
PRODUCTS = {"01": (".bmp", ".png"), "02": (".png", ".png"), "03": (".bmp", ".bmp")}
SIDE = 24


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


@pytest.fixture(scope="module")
def btad(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("btad")
    generator = np.random.default_rng(0)
    for product, (image, mask) in PRODUCTS.items():
        for place, count in (("train/ok", 6), ("test/ok", 3), ("test/ko", 12)):
            for number in range(count):
                pixels = generator.integers(40, 200, (SIDE, SIDE, 3), np.uint8)
                save(root / product / place / f"{number:04d}{image}", pixels)
        for number in range(12):
            marked = np.zeros((SIDE, SIDE), np.uint8)
            marked[number, : number + 1] = 255  # told apart by how much each marks
            save(root / product / "ground_truth/ko" / f"{number:04d}{mask}", marked)
    return root


@pytest.mark.parametrize("product", PRODUCTS)
def test_ten_defects_are_learned_from_and_the_rest_is_held_out_each_with_its_own_mask(btad, product):
    defects = open_defects(btad / product, defects_per_type=10, seed=3)
    assert (defects.layout, defects.categories, defects.exclusive) == ("btad", ("ko",), True)
    assert (len(defects.normal), len(defects.defective)) == (6, 10)
    assert sorted(sample.categories for sample in defects.held_out) == [(), (), (), ("ko",), ("ko",)]
    assert {sample.path.parent.name for sample in defects.normal} == {"ok"}
    for sample in (*defects.defective, *defects.held_out):
        if not sample.is_normal:
            assert sample.mask is not None
            assert read_mask(sample.mask).sum() == int(sample.path.stem) + 1
    assert not [finding for finding in check_defects(defects) if finding.severity == "error"]


def test_its_three_products_are_categories_and_another_seed_draws_other_defects(btad):
    folders, _ = find_categories(btad)
    assert [folder.name for folder in folders] == list(PRODUCTS)
    drawn = [open_defects(btad / "02", defects_per_type=10, seed=seed).defective for seed in range(4)]
    assert len({tuple(sample.path for sample in some) for some in drawn}) > 1
    with pytest.raises(DataError, match=r"02 has 12 images of ko, and 13 of each type are to be trained on"):
        open_defects(btad / "02", defects_per_type=13)
