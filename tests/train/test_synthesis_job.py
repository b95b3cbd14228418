"""Jobs: the same bytes whatever the parts, kills and order; a full disk; what is refused before anything is written."""

import json
import os
import subprocess
import sys
import time

import cv2
import drawn_painter
import numpy as np
import pytest
from drawn_painter import SIZE, DrawnPainter, tree, work
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import ConfigError
from train.data.check import check
from train.data.folder import open_dataset
from train.data.samples import DataError
from train.synthesis.errors import SynthesisError
from train.synthesis.job import categories_of
from train.synthesis.regions import parse_region

PLACES = ("regions", "soft_masks", "ground_truth", "provenance", "test")


def put_images(folder, count, *, size=SIZE, seed=0):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng([seed, number]).integers(60, 180, (size, size, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.png"), pixels)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A flat folder of normal images."""
    folder = tmp_path_factory.mktemp("data") / "parts"
    put_images(folder, 9)
    return folder


def test_a_folder_that_the_rest_reads(parts, tmp_path):
    summary = work(parts, tmp_path / "out", 14, painter=DrawnPainter(empty=(5,)))
    assert (summary.total, summary.drawn, summary.kept, summary.empty) == (14, 13, 0, 1)
    assert summary.per_category == {"burr": 7, "pore": 6}
    dataset = open_dataset(tmp_path / "out")
    assert dataset.skipped == ()
    assert {finding.kind for finding in check(dataset)} <= {"few", "few-test", "tiny"}
    assert len(dataset.train) == 9  # the backgrounds
    assert [(s.label, s.path.stem) for s in dataset.test if s.label == "pore"] == [
        ("pore", f"{index:06d}") for index in (1, 3, 7, 9, 11, 13)
    ]
    for sample in dataset.test:
        about = json.loads((tmp_path / f"out/provenance/{sample.label}/{sample.path.stem}.json").read_text())
        image, mask = cv2.imread(str(sample.path)), cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
        soft = cv2.imread(str(tmp_path / f"out/soft_masks/{sample.label}/{sample.path.name}"), cv2.IMREAD_GRAYSCALE)
        before = cv2.imread(str(parts / about["source"]["name"]))
        assert np.array_equal(mask == 255, soft > 127)
        assert np.array_equal(image[soft == 0], before[soft == 0])
        assert about["mask"] == {"threshold": 0.5, "pixels": 24, "pixels_outside_region": 0, "mean": 24 / SIZE**2}
        assert about["control"]["categories"] == [sample.label]
        assert str(parts) not in json.dumps(about)
    assert [path.name for path in (tmp_path / "out/provenance/empty").iterdir()] == ["000005.json"]


@settings(max_examples=8)
@given(count=st.integers(1, 23), of=st.integers(1, 4), batch=st.sampled_from([1, 4]), data=st.data())
def test_parts_in_any_order_and_a_longer_job_make_up_the_whole(parts, tmp_path_factory, count, of, batch, data):
    folder = tmp_path_factory.mktemp("jobs")
    work(parts, folder / "whole", count, painter=DrawnPainter(batch=batch, empty=(2,)))
    order = data.draw(st.permutations(range(1, of + 1)))
    first = data.draw(st.integers(1, count))
    totals = []
    for shard in order:
        painter = DrawnPainter(batch=batch, empty=(2,))
        work(parts, folder / "parts", first, painter=painter, shard=(shard, of))  # begun with fewer
        totals.append(work(parts, folder / "parts", count, painter=painter, shard=(shard, of)).total)
    assert sum(totals) == count
    assert tree(folder / "parts") == tree(folder / "whole")


def test_another_seed_is_another_job(parts, tmp_path):
    work(parts, tmp_path / "a", 8)
    work(parts, tmp_path / "b", 8, seed=1)
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert all(a[name] != b[name] for name in a if name.startswith("test/"))
    with pytest.raises(ConfigError, match="was begun with seed 0, and now it is 1"):
        work(parts, tmp_path / "a", 8, seed=1)
    assert tree(tmp_path / "a") == a


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(parts, tmp_path):
    count, out = 60, tmp_path / "out"
    work(parts, tmp_path / "whole", count, painter=DrawnPainter(empty=(5, 30)))
    whole = tree(tmp_path / "whole")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", "tests/train"])}
    command = [sys.executable, drawn_painter.__file__, str(parts), str(out), str(count)]
    for seen in (1, 17, 41):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("test/*/*.png"))) < seen:
            time.sleep(0.002)
        process.kill()
        assert process.wait() != 0  # it was killed underway
        for image in out.glob("test/*/[0-9]*.png"):  # whoever reads it now sees nothing by halves
            label, stem = image.parent.name, image.stem
            for other in (f"ground_truth/{label}/{stem}_mask.png", f"soft_masks/{label}/{stem}.png"):
                assert (out / other).exists()
        found = {name: digest for name, digest in tree(out).items() if "/." not in f"/{name}"}
        assert found.items() <= whole.items()
    (out / "soft_masks" / "burr" / ".000058.png.left").write_bytes(b"of a kill at the worst moment")
    left = work(parts, out, count, painter=DrawnPainter(empty=(5, 30)))
    assert 41 <= left.kept < count
    assert tree(out) == whole


def test_a_part_is_written_by_one_process(parts, tmp_path):
    class Second(DrawnPainter):
        def paint(self, images, regions, tasks):
            with pytest.raises(SynthesisError, match="Another process is writing part 1 of 1"):
                work(parts, tmp_path / "out", 4)
            return super().paint(images, regions, tasks)

    assert work(parts, tmp_path / "out", 4, painter=Second()).drawn == 4


def test_a_full_disk_is_a_sentence_and_the_job_goes_on(parts, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk here")
    try:
        work(parts, tmp_path / "whole", 80)
        (disk / "filler").write_bytes(bytes(3_400_000))
        with pytest.raises(SynthesisError, match=r"the disk is full. \d+ of 80 images are there and whole"):
            work(parts, disk / "out", 80)
        whole = tree(tmp_path / "whole")
        there = tree(disk / "out")
        assert 0 < len([name for name in there if name.startswith("test/")]) < 80
        assert there.items() <= whole.items()
        (disk / "filler").unlink()
        work(parts, disk / "out", 80)
        assert tree(disk / "out") == whole
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_restored_images_are_good_ones(parts, tmp_path):
    summary = work(parts, tmp_path / "out", 9, categories=((),), region=parse_region("image"))
    assert summary.per_category == {"good": 9}
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset.train), dataset.test) == (9, ())
    assert sorted({name.split("/")[0] for name in tree(tmp_path / "out")}) == [
        *("provenance", "regions", "soft_masks", "synthesis.json", "train")
    ]


def test_strength_weakens_the_mask_and_not_what_counts_as_defect(parts, tmp_path):
    work(parts, tmp_path / "out", 4, strength=0.25)
    for place, white, count in (("soft_masks", 64, 24), ("ground_truth", 255, 24)):
        masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in tmp_path.glob(f"out/{place}/*/*.png")]
        assert [((mask == white).sum(), mask.max()) for mask in masks] == [(count, white)] * 4


def test_confined_nothing_is_left_outside_of_the_region(parts, tmp_path):
    box = {"region": parse_region("box:12,12,3,3")}
    work(parts, tmp_path / "out", 4, confine=True, **box)
    work(parts, tmp_path / "free", 4, **box)
    outside = np.ones((SIZE, SIZE), bool)
    outside[12:15, 12:15] = False
    for path in tmp_path.glob("out/test/*/*.png"):
        about = json.loads((tmp_path / f"out/provenance/{path.parent.name}/{path.stem}.json").read_text())
        before, drawn = cv2.imread(str(parts / about["source"]["name"])), cv2.imread(str(path))
        free = cv2.imread(str(tmp_path / "free/test" / path.parent.name / path.name))
        assert np.array_equal(drawn[outside], before[outside])
        assert not np.array_equal(free[outside], before[outside])
        assert np.array_equal(drawn[~outside], free[~outside])


def test_backgrounds_stay_on_their_side(tmp_path):
    put_images(tmp_path / "data/train/good", 6)
    put_images(tmp_path / "data/test/good", 5, seed=1)
    put_images(tmp_path / "data/test/crack", 2, seed=2)
    find = drawn_painter.find_sources
    assert len(find(tmp_path / "data", side="train", seed=0, restore=False).images) == 6
    assert len(find(tmp_path / "data", side="all", seed=0, restore=False).images) == 11
    assert [s.name for s in find(tmp_path / "data", side="all", seed=0, restore=True).images] == [
        *("test/crack/00.png", "test/crack/01.png")
    ]
    held_out = find(tmp_path / "data", side="test", seed=0, restore=False)
    request = drawn_painter.Request(10, (("pore",),), parse_region("image"))
    drawn_painter.synthesize(DrawnPainter(), held_out, request, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.train == ()
    assert sorted({sample.label for sample in dataset.test}) == ["good", "pore"]
    with pytest.raises(DataError, match="no defective image to start from on the side train"):
        find(tmp_path / "data", side="train", seed=0, restore=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"region": "box:10,10,7,2"}, r"00.png: the region box:10,10,7,2 does not fit the image, which is 16 x 16"),
        ({"region": "polygon:1,1;20,1;1,9"}, "does not fit the image"),
        ({"region": "anywhere"}, "no part stands out.*Nothing was drawn. For a texture.*--region image"),
        ({"strength": 0.0}, "--strength is 0"),
        ({"shard": (3, 2)}, "--shard is 3/2"),
        ({"threshold": 1.0}, "--mask-threshold is 1"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_is_refused_before_anything_is_written(parts, tmp_path, wrong, message):
    given = wrong | ({"region": parse_region(wrong["region"])} if "region" in wrong else {})
    with pytest.raises(ConfigError, match=message):
        work(parts, tmp_path / "out", 8, **given)
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(parts, tmp_path):
    with pytest.raises(ConfigError, match="holds something and no synthesis.json"):
        work(parts, parts, 8)
    with pytest.raises(SynthesisError, match="masks lie between nan and nan"):
        work(parts, tmp_path / "out", 8, painter=DrawnPainter(factor=np.nan))
    with pytest.raises(ConfigError, match="--category dent is not known to this generator. It has burr, pore"):
        categories_of(DrawnPainter(), ["dent"])
    with pytest.raises(ConfigError, match="can't draw several at once"):
        categories_of(DrawnPainter(), ["burr+pore"])
    with pytest.raises(ConfigError, match="a category twice"):
        categories_of(DrawnPainter(), ["burr", "burr"])
    assert categories_of(DrawnPainter(), []) == (("burr",), ("pore",))
