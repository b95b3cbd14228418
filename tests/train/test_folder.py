"""Every layout that is accepted, every one that is refused, and a digest that knows the data and nothing else."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import listed, refusal

from train.data.folder import DataError, digest, open_dataset
from train.data.samples import shown, split_by_content


def put(root: Path, *names: str) -> Path:
    """Small images, each of its own content, and empty files where the name isn't an image's."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in {".png", ".jpg", ".bmp"}:
            pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (6, 8, 3), np.uint8)
            path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        else:
            path.write_bytes(b"")
    return root


def test_mvtec_layout_with_both_ways_to_name_a_mask(tmp_path):
    put(tmp_path, "train/good/001.png", "train/good/000.png", "test/good/000.png", "test/scratch/000.png")
    put(tmp_path, "test/scratch/001.png", "test/dent/ä 1.JPG", "license.txt", "train/good/._000.png", ".DS_Store")
    put(tmp_path, "ground_truth/scratch/000_mask.png", "ground_truth/scratch/001.png")
    (tmp_path / "Thumbs.db").touch()
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert listed(dataset, "train") == [("train/good/000.png", "good", None), ("train/good/001.png", "good", None)]
    assert listed(dataset, "test") == [
        ("test/dent/ä 1.JPG", "dent", None),
        ("test/good/000.png", "good", None),
        ("test/scratch/000.png", "scratch", "ground_truth/scratch/000_mask.png"),
        ("test/scratch/001.png", "scratch", "ground_truth/scratch/001.png"),
    ]
    assert [s.is_good for s in dataset.test] == [False, True, False, False]
    assert dataset.skipped == ()


def test_subfolders_of_a_label_belong_to_it_and_find_their_masks(tmp_path):
    put(tmp_path, "train/good/monday/0.png", "train/good/tuesday/0.png", "test/dent/cam1/0.png", "test/dent/cam2/0.png")
    put(tmp_path, "ground_truth/dent/cam1/0_mask.png", "ground_truth/dent/cam2/0_mask.png")
    dataset = open_dataset(tmp_path)
    assert len(dataset.train) == 2
    assert listed(dataset, "test") == [
        ("test/dent/cam1/0.png", "dent", "ground_truth/dent/cam1/0_mask.png"),
        ("test/dent/cam2/0.png", "dent", "ground_truth/dent/cam2/0_mask.png"),
    ]


def test_a_mask_is_found_although_one_name_is_composed_and_the_other_is_not(tmp_path):
    put(tmp_path, "train/good/0.png", "test/dent/u\u0308ber.png", "ground_truth/dent/\u00fcber_mask.png")
    assert open_dataset(tmp_path).test[0].mask is not None


def test_upper_case_folders_and_suffixes_are_the_same_layout(tmp_path):
    put(tmp_path, "Train/Good/0.PNG", "Test/Good/1.PNG")
    dataset = open_dataset(tmp_path)
    assert [s.label for s in (*dataset.train, *dataset.test)] == ["good", "good"]


def test_what_is_not_used_is_said(tmp_path):
    put(tmp_path, "train/good/0.png", "train/dent/0.png", "train/dent/1.png", "validation/good/0.png", "photo.png")
    put(tmp_path, "train/1.png", "train/2.png", "test/3.png", "ground_truth/dent/9_mask.png", "ground_truth/7.png")
    said = "\n".join(s.message for s in open_dataset(tmp_path).skipped)
    assert "train: 2 images in dent/ not used: a detector learns from train/good only." in said
    assert "3 images" not in said and "1 image in validation/ not used: only train, test and ground_truth" in said
    assert "train/1.png and 1 more are not used: they have no label there. Put them in train/good." in said
    assert "test/3.png is not used: it has no label there. Put it in test/good or in test/<type of defect>." in said
    assert "photo.png is not used" in said
    assert "ground_truth/7.png and 1 more masks belong to no image" in said


def test_good_and_bad_with_types_and_masks(tmp_path):
    put(tmp_path, *(f"good/{i}.png" for i in range(40)), "bad/0.png", "bad/dent/0.png", "bad/dent/deep/1.png")
    put(tmp_path, "ground_truth/0_mask.png", "ground_truth/dent/0_mask.png")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "good_bad"
    assert [n for n in listed(dataset, "test") if n[1] != "good"] == [
        ("bad/0.png", "bad", "ground_truth/0_mask.png"),
        ("bad/dent/0.png", "dent", "ground_truth/dent/0_mask.png"),
        ("bad/dent/deep/1.png", "dent", None),
    ]
    held = sum(s.is_good for s in dataset.test)
    assert 3 <= held <= 14 and len(dataset.train) == 40 - held
    assert all(s.is_good for s in dataset.train)


def test_frames_that_the_line_was_unsure_of_are_left_out_and_said(tmp_path):
    put(tmp_path, "good/a.png", "good/b.png", "bad/c.png", "uncertain/d.png", "uncertain/e.png")
    (tmp_path / "frames.jsonl").write_text('{"number": 1, "file": "good/a.png"}\n')
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "good_bad"
    read = {sample.path.name for sample in (*dataset.train, *dataset.test)}
    assert read == {"a.png", "b.png", "c.png"}
    (skipped,) = dataset.skipped
    assert skipped.message.endswith("2 images in uncertain/ not used: look at them, and move each into good/ or bad/.")


def test_a_good_image_stays_on_its_side_when_renamed_and_when_others_come(tmp_path):
    put(tmp_path, *(f"good/{i}.png" for i in range(30)), "bad/0.png")
    before = {s.path.read_bytes() for s in open_dataset(tmp_path).test if s.is_good}
    for i in range(30):
        (tmp_path / f"good/{i}.png").rename(tmp_path / f"good/{99 - i}_new.png")
    put(tmp_path, *(f"good/more{i}.png" for i in range(10)))
    after = {s.path.read_bytes() for s in open_dataset(tmp_path).test if s.is_good}
    assert before and before <= after


def test_copies_stay_together_and_a_small_set_still_gets_a_test_image(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "a2.png")
    sides = split_by_content(sorted(tmp_path.iterdir()))
    assert sides[tmp_path / "a.png"] == sides[tmp_path / "a2.png"]
    assert set(sides.values()) == {"train", "test"}
    only_copies = split_by_content([tmp_path / "a.png", tmp_path / "a2.png"])
    assert len(set(only_copies.values())) == 1


@pytest.mark.parametrize("prefix", ["", "good/"])
def test_good_images_only(tmp_path, prefix):
    put(tmp_path, f"{prefix}b.png", f"{prefix}a.jpg", "notes.txt", ".hidden/c.png")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "flat"
    assert listed(dataset, "train") == [(f"{prefix}a.jpg", "good", None), (f"{prefix}b.png", "good", None)]
    assert dataset.test == ()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "is empty. Put images of good parts in it, as PNG, JPEG, BMP, TIFF or WebP."),
        (["a.txt", "b.cr2", "c.cr2"], "holds no images (files: 2 with .cr2, 1 with .txt). Put images"),
        ([".DS_Store"], "is empty."),
        (["sub/a.txt"], "holds no images. Put images"),
        (["train/scratch/a.png", "train/dent/a.png"], "has no folder good/ (it holds dent/ and scratch/). A detector"),
        (["train/a.png"], "has no folder good/. A detector learns from good parts only: put their images in train/go"),
        (["train/good/a.txt"], "holds no training images. Put images"),
        (["good/a.txt", "bad/a.png"], "holds no good images."),
        (["test/good/a.png", "test/dent/a.png"], "holds folders of images (test/), but it has no train/good."),
        (["bad/a.png"], "holds folders of images (bad/), but it has no train/good."),
        (["a.png", "more/b.png"], "holds images and folders of images (more/), but their names don't say which parts"),
        (["x/a.png", "y/b.png"], "holds folders of images (x/ and y/), but their names don't say"),
        ([f"{c}/a.png" for c in "abcdef"], "(a/, b/, c/ and 3 more)"),
        (["good/a.png", "dent/b.png"], "holds dent/ beside good/. Move defective parts into bad/ (bad/dent, for one)"),
        (["good/a.png", "bad/good/b.png"], "says that its parts are good and bad."),
        (["good/a.png", "train/good/a.png"], "could be read in 2 ways, for it holds train/ and good/. Move all but"),
        (["Good/a.png", "good/a.png"], "holds Good/ and good/. Make one folder of them."),
        (["cap/train/good/a.png", "nut/good/a.png"], "holds 2 categories (cap/ and nut/) and is none itself. Give one"),
        (["cap/train/good/a.png"], "holds a category (cap/) and is none itself. Give one of them, "),
    ],
)
def test_what_is_no_layout_is_refused_with_what_to_do(tmp_path, files, says):
    put(tmp_path, *files)
    if "Good/a.png" in files and len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes Good and good for one name")
    assert says in refusal(tmp_path)


def test_a_folder_that_does_not_exist_names_its_neighbour(tmp_path):
    put(tmp_path, "bottle/a.png")
    assert refusal(tmp_path / "bottel") == f"{tmp_path}/bottel does not exist. Did you mean {tmp_path}/bottle?"
    assert refusal(tmp_path / "none" / "at" / "all").endswith("does not exist. Name a folder or file that is there.")


def test_a_file_is_not_a_folder(tmp_path):
    put(tmp_path, "a.png")
    assert "a.png is a file. Give the folder that holds the images, or a .csv" in refusal(tmp_path / "a.png")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, "train/good/a.png")

    def denied(path):  # root may read everything, so chmod alone would prove nothing here
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert refusal(tmp_path) == f"{tmp_path} can't be read (Permission denied). Check that it exists and may be read."


def test_a_link_to_a_folder_around_it_is_walked_once(tmp_path):
    put(tmp_path, "train/good/a.png")
    (tmp_path / "train" / "good" / "again").symlink_to(tmp_path / "train", target_is_directory=True)
    assert len(open_dataset(tmp_path).train) == 1


def test_digest_knows_the_data_and_not_its_place(tmp_path):
    one = put(tmp_path / "one", "train/good/0.png", "train/good/1.png", "test/dent/0.png", "ground_truth/dent/0.png")
    first = digest(open_dataset(one))
    assert first == digest(open_dataset(one)) and len(first) == 64
    two = tmp_path / "else" / "where"
    shutil.copytree(one, two)
    assert digest(open_dataset(two)) == first
    assert digest(open_dataset(Path(os.path.relpath(two)))) == first
    put(two, "notes.txt", "train/good/.DS_Store")
    assert digest(open_dataset(two)) == first

    seen = {first}
    for change in (
        lambda: (two / "train/good/0.png").rename(two / "train/good/2.png"),
        lambda: put(two, "train/good/3.png"),
        lambda: (two / "test/dent").rename(two / "test/crack"),
        lambda: (two / "ground_truth/dent").rename(two / "ground_truth/crack"),
        lambda: (two / "ground_truth/crack/0.png").write_bytes(b"other"),
        lambda: (two / "train/good/1.png").write_bytes(b"other"),
    ):
        change()
        seen.add(digest(open_dataset(two)))
    assert len(seen) == 7


def test_digest_of_what_vanished_is_a_sentence(tmp_path):
    dataset = open_dataset(put(tmp_path, "a.png", "b.png"))
    (tmp_path / "b.png").unlink()
    with pytest.raises(
        DataError, match=r"b\.png can't be read \(No such file or directory\)\. Was it moved or deleted\?"
    ):
        digest(dataset)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(stem=st.binary(min_size=1, max_size=40).filter(lambda b: b"/" not in b and b"\0" not in b))
def test_any_file_name_is_read_digested_and_printed_on_one_line(tmp_path, stem):
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    put(folder, "a.png")
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/x" + stem + b".png")
    dataset = open_dataset(folder)
    assert len(dataset.train) == 2 and digest(dataset)
    for sample in dataset.train:
        assert shown(sample.path).isprintable()
        shown(sample.path).encode()
