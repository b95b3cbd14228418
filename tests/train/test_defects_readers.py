"""Sets for generators: every layout that is read, the check of one, and what is refused."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.preprocess import read_image
from train.data.codebrim import CATEGORIES
from train.data.defect_check import check_defects
from train.data.defect_split import read_split
from train.data.defects import digest, open_defects, open_labelled, split_json
from train.data.normal_patches import crop_normal
from train.data.samples import DataError, file_digest


def put(root, *names, size=(40, 36)):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(list(name.encode()))
        path.write_bytes(cv2.imencode(".png", random.integers(40, 216, (*size[::-1], 3), np.uint8))[1].tobytes())
    return root


def put_mask(path, size=(40, 36)):
    mask = np.zeros(size[::-1], np.uint8)
    mask[4:9, 4:9] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)


def some(prefix, count, first=0):
    return [f"{prefix}/{number:02d}.png" for number in range(first, first + count)]


def listed(defects):
    return [
        (sample.path.relative_to(defects.root).as_posix(), sample.categories, sample.split)
        for sample in defects.samples
    ]


def test_class_folders_with_a_split_and_masks_where_there_are_some(tmp_path):
    put(tmp_path, *some("train/good", 2), *some("train/dent", 1), *some("test/normal", 1), *some("val/dent", 1, 7))
    put_mask(tmp_path / "ground_truth/dent/00_mask.png")
    defects = open_defects(tmp_path)
    assert (defects.layout, defects.categories, defects.exclusive) == ("classes", ("dent",), True)
    assert listed(defects) == [
        ("test/normal/00.png", (), "test"),
        ("train/dent/00.png", ("dent",), "train"),
        ("train/good/00.png", (), "train"),
        ("train/good/01.png", (), "train"),
        ("val/dent/07.png", ("dent",), "test"),
    ]
    assert [sample.mask is not None for sample in defects.samples] == [False, True, False, False, False]
    assert (len(defects.normal), len(defects.defective), len(defects.held_out)) == (2, 1, 2)


def test_flat_classes_hold_a_fifth_of_each_back(tmp_path):
    put(tmp_path, *some("normal", 60), *some("dent", 60), *some("rust", 60))
    defects = open_defects(tmp_path)
    for categories in ((), ("dent",), ("rust",)):
        held_out = [sample for sample in defects.held_out if sample.categories == categories]
        assert 4 <= len(held_out) <= 22
    (tmp_path / "normal").rename(tmp_path / "good")
    assert [s.split for s in open_defects(tmp_path).held_out] == [s.split for s in defects.held_out]


@given(first=st.integers(1, 5), more=st.integers(1, 4), seed=st.integers(0, 99))
def test_of_defects_that_are_there_to_test_on_more_are_the_same_and_others(tmp_path_factory, first, more, seed):
    folder = tmp_path_factory.getbasetemp() / "mvtec"
    if not folder.exists():
        put(folder, *some("train/good", 3), *some("test/good", 2), *some("test/cut", 9), *some("test/dent", 9))
        put_mask(folder / "ground_truth/cut/00_mask.png")
    few = open_defects(folder, defects_per_type=first, seed=seed)
    many = open_defects(folder, defects_per_type=first + more, seed=seed)
    assert {sample.path for sample in few.defective} < {sample.path for sample in many.defective}
    assert [len([s for s in many.defective if s.categories == (name,)]) for name in few.categories] == [
        first + more
    ] * 2
    assert len(few.samples) == len(many.samples) == 23
    assert not {sample.path for sample in many.defective} & {sample.path for sample in many.held_out}
    assert digest(few) != digest(many)


def test_half_of_each_type_by_default_copies_on_one_side_and_none_where_only_looked_at(tmp_path):
    put(tmp_path, *some("train/good", 2), *some("test/dent", 8))
    for number in range(1, 8):
        (tmp_path / f"test/dent/{number:02d}.png").write_bytes((tmp_path / "test/dent/00.png").read_bytes())
    assert len(open_defects(tmp_path).defective) == 8
    put(tmp_path, *some("test/cut", 9))
    assert len([s for s in open_defects(tmp_path).defective if s.categories == ("cut",)]) == 4
    assert open_labelled(tmp_path).defective == ()
    with pytest.raises(DataError, match="has 8 images of dent, and 9 of each type are to be trained on"):
        open_defects(tmp_path, defects_per_type=9)


def test_a_table_of_several_labels(tmp_path):
    put(tmp_path, *some("shots", 5))
    rows = ["path,labels,split", "shots/00.png,good,train", "shots/01.png,rust|crack,train", "shots/02.png,rust,test"]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    defects = open_defects(tmp_path / "data.csv")
    assert (defects.exclusive, defects.categories) == (False, ("crack", "rust"))
    assert [s.categories for s in defects.samples] == [(), ("crack", "rust"), ("rust",)]
    assert len(defects.held_out) == 1


def test_a_table_of_marks_and_one_of_single_labels(tmp_path):
    put(tmp_path, *some("shots", 3))
    marks = ["path,crack,rust", "shots/00.png,0,0", "shots/01.png,1,1", "shots/02.png,0,1"]
    (tmp_path / "marks.csv").write_text("\n".join(marks))
    defects = open_defects(tmp_path / "marks.csv")
    assert [s.categories for s in defects.samples] == [(), ("crack", "rust"), ("rust",)]
    (tmp_path / "marks.csv").write_text("path,label\nshots/00.png,Good\nshots/01.png,rust")
    assert open_defects(tmp_path / "marks.csv").exclusive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\nshots/00.png,train", "no column says what an image shows"),
        ("path,labels\nshots/00.png,", "line 2: the cell labels is empty"),
        ("path,labels\nshots/00.png,good|rust", "normal and defective at once"),
        ("path,labels\nshots/00.png,rust||crack", "has the labels rust"),
        ("path,crack\nshots/00.png,yes", "has yes in the column crack"),
        ("path,labels\nshots/07.png,rust", "line 2: the path shots/07.png is no file"),
        ("path,labels\nshots/00.png,good", "holds no defect"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    put(tmp_path, *some("shots", 2))
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_defects(tmp_path / "data.csv")


def codebrim_element(name, *shown):
    marks = {"Background": int(not shown)} | {tag: int(tag in shown) for tag in CATEGORIES}
    return f'<Defect name="{name}">' + "".join(f"<{tag}>{mark}</{tag}>" for tag, mark in marks.items()) + "</Defect>"


def put_codebrim(root, *more):
    put(root, "train/background/image_0_crop_0.png", "train/defects/image_1_crop_0.png")
    put(root, "val/defects/image_2_crop_0.png", "test/defects/image_3_crop_0.png")
    (root / "metadata").mkdir()
    (root / "metadata/background.xml").write_text(f"<A>{codebrim_element('image_0_crop_0.png')}</A>")
    elements = [
        codebrim_element("image_1_crop_0.png", "Crack", "CorrosionStain"),
        codebrim_element("image_2_crop_0.png", "ExposedBars"),
        codebrim_element("image_3_crop_0.png", "Crack"),
        *more,
    ]
    (root / "metadata/defects.xml").write_text(f"<Annotation>{''.join(elements)}</Annotation>")


def test_codebrim_has_its_labels_in_xml(tmp_path):
    put_codebrim(tmp_path)
    defects = open_defects(tmp_path)
    assert (defects.layout, defects.exclusive) == ("codebrim", False)
    assert defects.categories == ("corrosion_stain", "crack", "exposed_bars")
    assert listed(defects) == [
        ("test/defects/image_3_crop_0.png", ("crack",), "test"),
        ("train/background/image_0_crop_0.png", (), "train"),
        ("train/defects/image_1_crop_0.png", ("corrosion_stain", "crack"), "train"),
        ("val/defects/image_2_crop_0.png", ("exposed_bars",), "test"),
    ]


def test_codebrim_with_labels_or_images_missing(tmp_path):
    put_codebrim(tmp_path, codebrim_element("image_9_crop_9.png", "Crack"))
    with pytest.raises(DataError, match=r"names 1 images that no folder holds, image_9_crop_9.png for one"):
        open_defects(tmp_path)
    put(tmp_path, "train/defects/image_9_crop_9.png", "train/defects/image_9_crop_8.png")
    with pytest.raises(DataError, match=r"image_9_crop_8.png has no label: .*defects.xml doesn't name it"):
        open_defects(tmp_path)
    good = (tmp_path / "metadata/defects.xml").read_text()
    for text, message in (
        (good[:-20], "is no whole XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + good, "declares a document type"),
        (good.replace("<Crack>1", "<Crack>2", 1), "each with 0 or 1"),
        (good.replace("<Background>0", "<Background>1", 1), "background and defective at once"),
    ):
        (tmp_path / "metadata/defects.xml").write_text(text)
        with pytest.raises(DataError, match=message):
            open_defects(tmp_path)


@pytest.mark.parametrize(
    ("names", "empty", "message"),
    [
        (["train/good/0.png", "train/dent/0.png"], "train/rust", "train/rust is a class with no image"),
        (["train/good/0.png", "train/dent/0.png", "test/rust/0.png"], None, "test/rust is a class that .*train lacks"),
        (["train/good/0.png", "train/normal/0.png", "train/dent/0.png"], None, "both mean that nothing is wrong"),
        (["train/good/0.png", "test/good/0.png"], None, "holds no defect, so there is nothing to learn to draw"),
        (["0.png", "1.png"], None, "holds no defect"),
        (["train/0.png"], None, "holds no folders of classes"),
    ],
)
def test_folders_that_are_wrong(tmp_path, names, empty, message):
    put(tmp_path, *names)
    if empty:
        (tmp_path / empty).mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        open_defects(tmp_path)


def test_the_check_names_what_would_make_the_training_wrong(tmp_path):
    put(tmp_path, *some("train/good", 60), *some("train/dent", 30), *some("test/dent", 2), "train/rust/0.png")
    (tmp_path / "test/dent/00.png").write_bytes((tmp_path / "train/dent/00.png").read_bytes())
    put_mask(tmp_path / "ground_truth/dent/01_mask.png", size=(20, 20))
    (tmp_path / "train/dent/02.png").write_bytes((tmp_path / "train/dent/02.png").read_bytes()[:200])
    findings = check_defects(open_defects(tmp_path))
    errors = {finding.kind: finding.message for finding in findings if finding.severity == "error"}
    assert set(errors) == {"leak", "mask-size", "mask-shared", "truncated", "too-few"}
    assert "1 different image of rust to train on; at least 2 are needed" in errors["too-few"]
    assert "is 20 x 20 pixels, but its image" in errors["mask-size"]
    put(tmp_path / "steel", *some("train/dent", 30))
    assert [finding.kind for finding in check_defects(open_defects(tmp_path / "steel"))] == ["no-normal"]


def test_the_split_of_a_run_knows_its_images_wherever_they_lie(tmp_path):
    put(tmp_path / "data", *some("train/good", 3), *some("test/dent", 4))
    defects = open_defects(tmp_path / "data", defects_per_type=2)
    (tmp_path / "split.json").write_text(json.dumps(split_json(defects)))
    trained_on = read_split(tmp_path)
    moved = tmp_path / "elsewhere.png"
    for sample in defects.samples:
        moved.write_bytes(sample.path.read_bytes())
        assert trained_on.knows(moved) == (sample.split == "train")
    with pytest.raises(DataError, match="can't be read .*Name a generator's run"):
        read_split(tmp_path / "data")
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(DataError, match="does not say which images a generator was trained on"):
        read_split(tmp_path)


def test_normal_patches_avoid_every_box_and_are_the_same_again(tmp_path):
    put(tmp_path / "images", "a.png", "b.png", "silent.png", size=(120, 100))
    boxes = {"a": [(10, 10, 40, 90), (80, 0, 119, 50)], "b": []}
    (tmp_path / "xml").mkdir()
    for name, marked in boxes.items():
        corners = "".join(
            f"<object><Defect><Background>0</Background></Defect><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for a, b, c, d in marked
        )
        whole = "<object><Defect><Background>1</Background></Defect></object>"
        (tmp_path / f"xml/{name}.xml").write_text(f"<annotation>{corners}{whole}</annotation>")
    written = crop_normal(tmp_path / "images", tmp_path / "out", size=16, count=12, boxes=tmp_path / "xml")
    patches = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert written == len(patches)
    assert 8 <= written <= 12
    for stem in patches:
        name, x, y = stem.split("_")
        x, y = int(x), int(y)
        assert all(x > c or x + 16 <= a or y > d or y + 16 <= b for a, b, c, d in boxes[name])
        image = read_image(tmp_path / f"images/{name}.png")
        assert np.array_equal(read_image(tmp_path / f"out/{stem}.png"), image[y : y + 16, x : x + 16])
    before = {path.name: file_digest(path) for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / f"{patches[0]}.png").unlink()
    assert crop_normal(tmp_path / "images", tmp_path / "out", size=16, count=12, boxes=tmp_path / "xml") == written
    assert before == {path.name: file_digest(path) for path in (tmp_path / "out").iterdir()}


def test_patches_of_a_table_and_what_is_refused(tmp_path):
    put(tmp_path / "images", "a.png", size=(120, 100))
    (tmp_path / "boxes.csv").write_text("file,class,xmin,ymin,xmax,ymax\na.png,dent,0,0,119,60\na.png,rust,5,5,9,9")
    crop_normal(tmp_path / "images", tmp_path / "out", size=32, count=2, boxes=tmp_path / "boxes.csv")
    assert all(int(path.stem.split("_")[2]) > 60 for path in (tmp_path / "out").iterdir())
    for size, count, message in (
        (64, 1, "fits between the defects"),
        (128, 1, "smaller than a patch"),
        (4, 1, "Give 8"),
    ):
        with pytest.raises(DataError, match=message):
            crop_normal(tmp_path / "images", tmp_path / "o", size=size, count=count, boxes=tmp_path / "boxes.csv")
    (tmp_path / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax\na.png,9,0,one,60")
    with pytest.raises(DataError, match="has the box 9, 0, one, 60"):
        crop_normal(tmp_path / "images", tmp_path / "o", size=16, count=1, boxes=tmp_path / "boxes.csv")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_a_turned_image_are_avoided_as_they_are_shown(tmp_path, orientation):
    """The stored image is grey, its box white: no patch may hold white, whichever way it is shown."""
    pixels = np.full((90, 150, 3), 90, np.uint8)
    pixels[8:32, 16:64] = 255
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + tag + bytes(4)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(
        data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    )
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nimages/a.jpg,16,8,63,31")
    crop_normal(tmp_path / "images", tmp_path / "out", size=12, count=40, boxes=tmp_path / "boxes.csv")
    brightest = [read_image(path).max() for path in (tmp_path / "out").iterdir()]
    assert len(brightest) >= 15
    assert max(brightest) < 140
