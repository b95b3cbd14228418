"""BTAD, KolektorSDD2 and folders of categories, drawn: which image is what, whose mask is whose, what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from reading import listed, refusal

from train.data.categories import find_categories
from train.data.check import check
from train.data.folder import DataError, digest, open_dataset


def draw(root: Path, *names: str, size: tuple[int, int] = (40, 36)) -> Path:
    """Noise, of its own for each name."""
    for name in names:
        save(root / name, np.random.default_rng(list(name.encode())).integers(0, 256, (*size, 3), np.uint8))
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def mask(path: Path, marked: int = 0, size: tuple[int, int] = (40, 36)) -> None:
    pixels = np.zeros(size, np.uint8)
    pixels.ravel()[:marked] = 255
    save(path, pixels)


def refusal_below(folder: Path) -> str:
    """The refusal with the folder's own path taken out."""
    return refusal(folder).replace(f"{folder}/", "")


@pytest.fixture
def btad(tmp_path) -> Path:
    folder = tmp_path / "01"
    draw(
        folder, *(f"train/ok/{i:04d}.bmp" for i in range(9)), "test/ok/0009.bmp", "test/ko/0000.bmp", "test/ko/0001.png"
    )
    mask(folder / "ground_truth/ko/0000.png", 9)  # of another suffix than its image
    mask(folder / "ground_truth/ko/0001.bmp", 4)
    return folder


def test_btad_calls_good_ok_and_its_masks_have_the_stem_of_the_image(btad):
    dataset = open_dataset(btad)
    assert dataset.layout == "btad"
    assert listed(dataset, "train") == [(f"train/ok/{i:04d}.bmp", "good", None) for i in range(9)]
    assert listed(dataset, "test") == [
        ("test/ko/0000.bmp", "ko", "ground_truth/ko/0000.png"),
        ("test/ko/0001.png", "ko", "ground_truth/ko/0001.bmp"),
        ("test/ok/0009.bmp", "good", None),
    ]
    assert dataset.skipped == ()
    assert {finding.severity for finding in check(dataset)} == {"warning"}  # few images, nothing else


def test_a_set_that_mixes_the_words_of_btad_and_mvtec_is_refused(btad):
    draw(btad, "test/good/1.png")
    assert refusal_below(btad) == (
        "test/good can't be told good or defective, for good parts are called ok in train. Rename it to ok, or to its "
        "type of defect."
    )
    draw(btad, "train/good/1.png")
    assert "train holds good/ (as MVTec AD) and ok/ (as BTAD). Make one folder of them." in refusal_below(btad)


def test_ok_is_no_type_of_defect_in_mvtec_either(tmp_path):
    draw(tmp_path, "train/good/1.png", "test/ok/2.png")
    assert "test/ok can't be told good or defective, for good parts are called good in train." in refusal_below(
        tmp_path
    )


def test_btad_names_what_it_does_not_use_in_its_own_words(btad):
    draw(btad, "train/5.png", "test/6.png", "train/ko/7.png")
    said = " ".join(skipped.message for skipped in open_dataset(btad).skipped)
    assert "Put it in train/ok." in said
    assert "Put it in test/ok or in test/<type of defect>." in said
    assert "1 image in ko/ not used: a detector learns from train/ok only." in said


@pytest.fixture
def ksdd2(tmp_path) -> Path:
    folder = tmp_path / "ksdd2"
    for split, numbers, defective in (
        ("train", range(10000, 10010), {10002, 10005}),
        ("test", range(20000, 20004), {20001}),
    ):
        for number in numbers:
            draw(folder, f"{split}/{number}.png")
            mask(folder / split / f"{number}_GT.png", 1 if number in defective else 0)
    return folder


def test_ksdd2_is_labelled_by_its_masks_and_defective_training_pictures_are_left_out(ksdd2):
    dataset = open_dataset(ksdd2)
    assert dataset.layout == "ksdd2"
    good = [number for number in range(10000, 10010) if number not in {10002, 10005}]
    assert listed(dataset, "train") == [(f"train/{number}.png", "good", None) for number in good]
    assert listed(dataset, "test") == [
        ("test/20000.png", "good", None),
        ("test/20001.png", "defect", "test/20001_GT.png"),
        ("test/20002.png", "good", None),
        ("test/20003.png", "good", None),
    ]
    (skipped,) = dataset.skipped
    assert skipped.message.replace(f"{ksdd2}/", "") == (
        "train: 2 of 10 training pictures show a defect by their masks, 10002.png for one, and are left out: a "
        "detector learns from good parts only."
    )
    assert {finding.severity for finding in check(dataset)} == {"warning"}


def test_the_digest_of_ksdd2_changes_when_a_mask_turns_a_picture_defective(ksdd2):
    before = digest(open_dataset(ksdd2))
    mask(ksdd2 / "test/20003_GT.png", 1)
    assert digest(open_dataset(ksdd2)) != before


def test_ksdd2_without_a_mask_or_with_a_damaged_one_is_refused(ksdd2):
    (ksdd2 / "train/10007_GT.png").write_bytes(b"no image")
    assert refusal_below(ksdd2).startswith("train/10007_GT.png is not an image that can be read here.")
    assert refusal_below(ksdd2).endswith("Without it, its picture can't be told good or defective.")
    (ksdd2 / "train/10007_GT.png").unlink()
    (ksdd2 / "train/10008_GT.png").unlink()
    assert refusal_below(ksdd2) == (
        "train/10007.png has no mask 10007_GT.png beside it (nor have 1 more), so it can't be told good or defective. "
        "Copy the mask there (a black one for a good part), or delete the picture."
    )


def test_ksdd2_with_masks_of_ones_or_inverted_ones_is_refused(ksdd2):
    save(ksdd2 / "test/20002_GT.png", np.ones((40, 36), np.uint8))
    assert "20002_GT.png is no mask: its brightest value is 1." in refusal_below(ksdd2)
    for number in range(10000, 10010):
        mask(ksdd2 / f"train/{number}_GT.png", 40 * 36)
    mask(ksdd2 / "test/20002_GT.png")
    assert "Each of the 10 masks in" in refusal_below(ksdd2)
    assert "Are the masks inverted?" in refusal_below(ksdd2)


def test_a_mask_without_a_picture_is_named(ksdd2):
    mask(ksdd2 / "test/29999_GT.png")
    said = [skipped.message for skipped in open_dataset(ksdd2).skipped]
    assert f"{ksdd2}/test/29999_GT.png is a mask without a picture. Copy the set again." in said


def test_the_data_check_sees_a_defect_mask_of_another_size(ksdd2):
    mask(ksdd2 / "test/20001_GT.png", 5, size=(20, 18))
    (message,) = [finding.message for finding in check(open_dataset(ksdd2)) if finding.kind == "mask-size"]
    assert "20001_GT.png is 18 x 20 pixels, but its image test/20001.png is 36 x 40." in message


def test_categories_of_every_layout_are_found(tmp_path, btad, ksdd2):
    draw(
        tmp_path,
        "bottle/train/good/1.png",
        "caps/good/1.png",
        "shots/1.png",
        "extra/deep/1.png",
        "notes/readme.txt/x.png",
    )
    (tmp_path / "shots/data.csv").write_text("path,label\n1.png,good\n")
    folders, skipped = find_categories(tmp_path)
    assert [folder.name for folder in folders] == ["01", "bottle", "caps", "ksdd2", "shots"]
    (note,) = skipped
    assert note.message.endswith(
        "2 images in extra/ and notes/ not used: that is no category, for it has no train/good."
    )


def test_a_category_itself_stands_alone(btad):
    assert find_categories(btad) == ([btad], [])


@pytest.mark.parametrize("opened", ["fit", "table"])
def test_the_folder_above_is_told_from_the_category(tmp_path, btad, opened):
    if opened == "fit":
        assert refusal_below(btad.parent) == (
            f"{tmp_path} holds a category (01/) and is none itself. Give one of them, 01; or fit and evaluate all of "
            f"them: python -m train table DETECTOR --data {tmp_path} --out RUNS"
        )
    else:
        with pytest.raises(DataError, match=r"btad\.zip is a file\. Give the folder that holds the categories\."):
            (tmp_path / "btad.zip").touch()
            find_categories(tmp_path / "btad.zip")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "holds no categories. A category is a folder such as bottle/, with good parts in bottle/train/good"),
        (["x/1.png", "y/1.png"], "holds no categories (it holds x/ and y/). A category is"),
        (
            ["cifar-10-batches-bin/data_batch_1.bin"],
            "holds CIFAR-10 as batches. Unpack them once into ten categories: ",
        ),
    ],
)
def test_a_folder_without_categories_is_refused(tmp_path, files, says):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw(tmp_path, name) if name.endswith(".png") else (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        find_categories(tmp_path)
    assert says in str(caught.value)


def test_the_batches_of_cifar10_are_no_images(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_3").touch()
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(DataError) as caught:
            open_dataset(folder)
        assert f"python -m train unpack cifar10 {tmp_path}/cifar-10-batches-py --out FOLDER" in str(caught.value)
