"""KolektorSDD2 for generators and segmenters: its split, its few defects, and its pictures cut into squares."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_agent.preprocess import read_image, read_mask
from train.__main__ import app
from train.data.defects import open_defects, open_labelled
from train.data.folder import open_dataset
from train.data.samples import DataError
from train.data.squares import cut_squares, rows_of

WIDTH, HEIGHT = 20, 54
DEFECTIVE = {10001, 10003, 10004, 20001}
ROWS = {10001: 2, 10003: 38, 10004: 45, 20001: 25}  # of the defect: top; second and bottom; bottom; second


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


@pytest.fixture
def ksdd2(tmp_path) -> Path:
    for split, numbers in (("train", range(10000, 10007)), ("test", range(20000, 20003))):
        for number in numbers:
            picture = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            if number in DEFECTIVE:
                mask[ROWS[number], 5:9] = 255
            save(tmp_path / "ksdd2" / split / f"{number}.png", picture)
            save(tmp_path / "ksdd2" / split / f"{number}_GT.png", mask)
    return tmp_path / "ksdd2"


def stems(samples):
    return {int(sample.path.stem) for sample in samples}


def test_few_defects_are_of_the_training_side_and_the_test_side_is_held_out_whole(ksdd2):
    defects = open_defects(ksdd2, defects_per_type=2, seed=1)
    assert (defects.layout, defects.categories, defects.exclusive) == ("ksdd2", ("defect",), True)
    assert stems(defects.normal) == {10000, 10002, 10005, 10006}
    assert len(defects.defective) == 2 and stems(defects.defective) < DEFECTIVE - {20001}
    assert stems(defects.held_out) == {20000, 20001, 20002}
    assert [sample.mask is None for sample in defects.held_out] == [True, False, True]
    assert all(sample.mask and sample.mask.stem == f"{sample.path.stem}_GT" for sample in defects.defective)
    (left,) = {10001, 10003, 10004} - stems(defects.defective)
    (skipped,) = defects.skipped
    assert skipped.message.endswith(
        f"train: 1 defective picture is not used, {left}.png for one: 2 are trained on, and those in test are tested "
        "on."
    )


def test_without_a_number_all_training_defects_are_taken(ksdd2):
    for defects in (open_defects(ksdd2), open_labelled(ksdd2)):
        assert stems(defects.defective) == {10001, 10003, 10004}
        assert defects.skipped == ()
    with pytest.raises(DataError, match=r"train has 3 images of defect, and 4 of each .* all of them are taken then"):
        open_defects(ksdd2, defects_per_type=4)


def test_a_detector_still_leaves_the_training_defects_out(ksdd2):
    dataset = open_dataset(ksdd2)
    assert stems(dataset.train) == {10000, 10002, 10005, 10006}
    assert "3 of 7 training pictures show a defect" in dataset.skipped[0].message


def test_squares_have_their_own_labels_and_masks_and_are_read_as_a_set(ksdd2, tmp_path):
    out = tmp_path / "squares"
    counts = cut_squares(open_defects(ksdd2), out)
    assert counts == {"test/defect": 1, "test/good": 8, "train/defect": 4, "train/good": 17}
    squares = open_defects(out)
    assert (squares.layout, len(squares.normal), len(squares.defective)) == ("classes", 17, 4)
    assert {sample.path.stem for sample in squares.defective} == {
        "10001_top",
        "10003_second",
        "10003_bottom",  # squares may overlap
        "10004_bottom",
    }
    whole = read_image(ksdd2 / "train/10003.png")
    for sample in squares.defective:
        if sample.path.stem == "10003_bottom":
            np.testing.assert_array_equal(read_image(sample.path), whole[-WIDTH:])
            assert np.argwhere(read_mask(sample.mask)).tolist() == [[38 - HEIGHT + WIDTH, x] for x in range(5, 9)]
    assert len(open_dataset(out).train) == 17  # a detector reads them too
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert cut_squares(open_defects(ksdd2), out) == counts
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    for name in ("10002.png", "10002_GT.png"):  # its squares lie on the other side
        (ksdd2 / "train" / name).rename(ksdd2 / "test" / name)
    with pytest.raises(DataError, match=r"train/good/10002_\w+\.png is no square of these images\."):
        cut_squares(open_defects(ksdd2), out)


def test_which_rows_a_square_has():
    assert rows_of(640, 230) == (slice(0, 230), slice(230, 460), slice(410, 640))
    with pytest.raises(ValueError, match=r"is 230 x 460 pixels. Three squares are cut of what is more than twice"):
        rows_of(460, 230)


def test_the_verb_says_what_it_cut_and_what_comes_next(ksdd2, tmp_path):
    out = tmp_path / "squares"
    words = ["cut-squares", str(ksdd2), "--out", str(out), "--defects-per-type", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "8 of test/good" in said and "1 defective picture is not used" in said
    assert "python -m train fit-generator adabldm --data" in said
    another = CliRunner().invoke(app, [*words[:-1], "1"])
    assert another.exit_code == 2
    assert "is no square of these images. Give --out a new folder." in " ".join(another.output.split())


def test_pictures_that_no_squares_can_be_cut_of_are_named(ksdd2, tmp_path):
    save(ksdd2 / "test/20002.png", np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(DataError, match=r"20002\.png is 54 x 20 pixels\. Three squares .* Crop it, or leave it out\."):
        cut_squares(open_defects(ksdd2), tmp_path / "squares")
    save(ksdd2 / "test/20001_GT.png", np.full((HEIGHT, WIDTH // 2), 255, np.uint8))
    with pytest.raises(DataError, match=r"20001_GT\.png is 10 x 54 pixels, but its image 20 x 54\. Write it anew\."):
        cut_squares(open_defects(ksdd2), tmp_path / "others")
