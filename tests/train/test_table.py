"""A CSV table of images: what it may look like, and the line that is wrong where it is wrong."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data.folder import DataError, digest, open_dataset


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["a.png", "b.png", "c.png", "deep/d ü.png", "m.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.full((4, 4, 3), i * 40, np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return tmp_path


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_split_and_mask_are_taken_from_the_table(folder):
    path = table(folder, "path,label,split,mask\nb.png,good,train,\na.png,GOOD,test,\nc.png,dent,test,m.png\n")
    dataset = open_dataset(path)
    assert dataset.layout == "csv" and dataset.root == folder
    assert [s.path.name for s in dataset.train] == ["b.png"]
    assert [(s.path.name, s.label, s.mask and s.mask.name) for s in dataset.test] == [
        ("a.png", "good", None),
        ("c.png", "dent", "m.png"),
    ]
    assert open_dataset(folder) == dataset  # the folder that holds the table says the same
    assert digest(open_dataset(folder)) == digest(dataset)


def test_digest_knows_label_split_and_mask(folder):
    tables = ["a.png,good,train,\nb.png,dent,test,", "a.png,good,train,\nb.png,good,test,"]
    tables += ["a.png,good,train,\nb.png,good,train,", "a.png,good,train,\nb.png,dent,test,m.png"]
    found = {digest(open_dataset(table(folder, f"path,label,split,mask\n{rows}\n"))) for rows in tables}
    assert len(found) == 4


def test_without_a_split_the_content_decides(folder):
    dataset = open_dataset(table(folder, "path,label\na.png,good\nb.png,good\nc.png,good\ndeep/d ü.png,dent\n"))
    assert len(dataset.train) + len(dataset.test) == 4
    assert all(s.is_good for s in dataset.train) and {s.label for s in dataset.test} == {"good", "dent"}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label,split\r\na.png,good,train\r\n\r\nc.png,dent,test\r\n",  # as Excel writes it
        "Path;Label;Split\na.png;good;Train\nc.png;dent;TEST\n",  # as Excel writes it in half of Europe
        'label , split, path,remark\ngood,train,"a.png",\ndent,test, c.png,"x, y"\n',
    ],
)
def test_spreadsheets_differ(folder, text):
    dataset = open_dataset(table(folder, text))
    assert [s.path.name for s in (*dataset.train, *dataset.test)] == ["a.png", "c.png"]


def test_a_path_written_on_windows(folder):
    dataset = open_dataset(table(folder, "path,label,split\ndeep\\d ü.png,good,train\n"))
    assert dataset.train[0].path == folder / "deep/d ü.png"


def test_defective_images_marked_for_training_are_left_out_and_named(folder):
    dataset = open_dataset(table(folder, "path,label,split\na.png,good,train\nb.png,dent,train\nc.png,dent,train\n"))
    assert len(dataset.train) == 1 and dataset.test == ()
    assert "b.png and 1 more labelled defective with split train: not used" in dataset.skipped[0].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: there is no column path, only nothing. Write path,label there."),
        ("path,class\na.png,good\n", "line 1: there is no column label, only path, class. Write path,label there."),
        ("path,label,path\na.png,good,b.png\n", "line 1: a column is named twice (path, label, path)."),
        ("path,label\n", "lists no images. Write one line per image below the header."),
        ("path,label\na.png,good\nx.png,good\n", "line 3: the path x.png is no file beside the table. Paths start at"),
        ("path,label\n.,good\n", "line 2: the path . is no file beside the table."),
        (f"path,label\n{'x' * 5000},good\n", "is no file beside the table."),
        ("path,label,mask\na.png,good,no.png\n", "line 2: the mask no.png is no file beside the table."),
        ("path,label\na.png,good\n\na.png,good\n", "line 4: a.png is listed in line 2 already. Delete one."),
        ("path,label\na.png\n", "line 2: 1 cells, but the header has 2. Quote cells that hold a comma."),
        ("path,label\na.png,\n", "line 2: the cell label is empty."),
        ("path,label\n,good\n", "line 2: the cell path is empty."),
        ("path,label,split\na.png,good,val\n", "line 2: split is val. Write train or test."),
        ("path,label,split\na.png,good,\n", "line 2: split is empty. Write train or test."),
        ("path,label\na.png,ok\nb.png,nok\n", "lists no good part (its labels are nok, ok). Write good as the label"),
        ("path,label,split\na.png,good,test\n", "lists no good part with split train. Mark some for training."),
        (b"path,label\na.png,good\n\xfc.png,good\n", "line 3: this is not UTF-8. Save the table as CSV UTF-8."),
        ('path,label\n"a.png"x,good\n', "line 2: this is no CSV ("),
        ('path,label\n"a.png,good\n', "line 2: this is no CSV ("),
        ("path,label\na\0.png,good\n", "line 2: "),
    ],
)
def test_the_line_that_is_wrong_is_named(folder, text, says):
    assert says in refusal(table(folder, text))


def test_two_tables_are_one_too_many_and_another_csv_is_none(folder):
    path = table(folder, "path,label,split\na.png,good,train\n")
    (folder / "boxes.csv").write_text("file,class\na.png,dent\n")
    assert open_dataset(folder).layout == "csv"
    shutil.copy(path, folder / "old.csv")
    assert (
        "could be read in 2 ways, for it holds data.csv and old.csv. Move all but one away, or give the .csv file"
        in (refusal(folder))
    )
    assert open_dataset(path).layout == "csv"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda t: b"path,label,mask\n" + t.encode())))
def test_any_bytes_give_a_data_set_or_a_sentence(folder, data):
    try:
        open_dataset(table(folder, data))
    except DataError as error:
        assert str(error).isprintable()
