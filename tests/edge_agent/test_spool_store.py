"""The spool on disk: what is kept, what makes room, and that what is seen is whole and has its line."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spooling import assert_whole, picture, verdict

from edge_agent.pictures import encode_frame
from edge_agent.spool.choice import drawn, kind_of
from edge_agent.spool.settings import Quota, UncertainBand
from edge_agent.spool.store import SPARE_LINES, UNFINISHED, Place, Store, safe_name

PLACE = Place("dots", "top")
BAND = UncertainBand(low=0.9, high=1.1)
ROOMY = Quota()


def quotas(**changes: Quota) -> dict:
    return {"good": ROOMY, "bad": ROOMY, "uncertain": ROOMY, **changes}


def put(store: Store, kind: str, *numbers: int, place: Place = PLACE) -> list[bool]:
    return [
        store.add(place, kind, f"press-7.top.7.{n}", encode_frame(picture(n)), {"result_id": f"press-7.top.7.{n}"})
        for n in numbers
    ]


def numbers(folder: Path, kind: str) -> list[int]:
    return sorted(int(path.stem.rsplit(".", 1)[1]) for path in folder.glob(f"*/*/{kind}/*.png"))


@pytest.mark.parametrize(
    ("score", "threshold", "kind"),
    [
        (0.5, 1.0, None), (0.89, 1.0, None), (0.9, 1.0, "uncertain"), (1.1, 1.0, "uncertain"), (1.11, 1.0, "bad"),
        (0.5, 0.55, "uncertain"), (1.2, 1.25, "uncertain"), (1.4, 1.25, "bad"), (None, 1.0, None),
    ],
)  # fmt: skip
def test_what_is_kept_goes_by_the_verdict_and_the_threshold_in_force(score, threshold, kind):
    word = None if score is None else "pass" if score <= threshold else "reject"
    result = verdict(1, score, threshold=threshold, **({} if word is None else {"verdict": word}))
    assert kind_of(result, result.result_id, pass_share=0.0, band=BAND) == kind
    every = kind_of(result, result.result_id, pass_share=1.0, band=BAND)
    assert every == (kind or (None if score is None else "good"))


def test_a_band_without_width_holds_nothing():
    band = UncertainBand(low=1.0, high=1.0)
    assert kind_of(verdict(1, 1.0), "id", pass_share=0.0, band=band) is None


def test_the_sample_of_passes_is_random_and_the_same_every_time():
    ids = [f"press-7.top.{boot}.{n}" for boot in (7, 8) for n in range(20_000)]
    chosen = [each for each in ids if drawn(each, 0.05)]
    assert abs(len(chosen) / len(ids) - 0.05) < 0.005
    assert chosen == [each for each in ids if drawn(each, 0.05)]
    assert {each for each in ids if drawn(each, 0.01)} < set(chosen)
    gaps = np.diff([ids.index(each) for each in chosen])
    assert gaps.max() > 3 * gaps.mean()  # not every twentieth
    assert not any(drawn(each, 0.0) for each in ids)
    assert all(drawn(each, 1.0) for each in ids)


def test_a_flood_of_rejects_pushes_out_old_rejects_and_no_pass(tmp_path):
    store = Store(tmp_path, quotas(bad=Quota(max_files=5)))
    put(store, "good", 0, 1, 2)
    put(store, "bad", *range(100, 130))
    put(store, "uncertain", 3)
    assert numbers(tmp_path, "good") == [0, 1, 2]
    assert numbers(tmp_path, "bad") == [125, 126, 127, 128, 129]
    assert store.files == 9
    assert store.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*/*/*.png"))
    assert len(assert_whole(tmp_path)) == 9


def test_bytes_are_a_bound_too_and_never_exceeded(tmp_path):
    size = len(encode_frame(picture(0)))
    store = Store(tmp_path, quotas(good=Quota(max_bytes=int(3.5 * size))))
    for n in range(10):
        put(store, "good", n)
        assert sum(path.stat().st_size for path in tmp_path.glob("*/*/good/*.png")) <= 3.5 * size
    assert numbers(tmp_path, "good") == [7, 8, 9]
    huge = encode_frame(picture(10, size=(200, 200)))
    assert not store.add(PLACE, "good", "huge", huge, {"result_id": "huge"})
    assert numbers(tmp_path, "good") == [7, 8, 9]  # nothing made room for what does not fit at all


def test_the_oldest_leave_first_over_restarts_and_whatever_the_clock_said(tmp_path):
    for n in (1, 2, 3):
        put(Store(tmp_path, quotas()), "good", n)
    other = Place("dots", "side")
    put(Store(tmp_path, quotas()), "good", 4, place=other)
    for age, path in enumerate(sorted(tmp_path.glob("*/*/good/*.png"))):
        os.utime(path, (10**9 - age, 10**9 - age))
    store = Store(tmp_path, quotas(good=Quota(max_files=3)))
    assert store.files == 4
    put(store, "good", 5, place=other)
    assert numbers(tmp_path, "good") == [3, 4, 5]


def test_nothing_is_there_twice(tmp_path):
    store = Store(tmp_path, quotas())
    assert put(store, "good", 1, 1) == [True, False]
    assert put(Store(tmp_path, quotas()), "good", 1) == [False]
    assert store.files == 1


def test_what_was_left_unfinished_is_cleared_and_torn_lines_are_dropped(tmp_path):
    put(Store(tmp_path, quotas()), "good", 1, 2)
    index = tmp_path / "dots/top/frames.jsonl"
    left = tmp_path / f"dots/top/good/.press-7.top.7.9.png{UNFINISHED}"
    left.write_bytes(encode_frame(picture(9))[:50])
    with index.open("a") as file:
        file.write('{"number": 3, "file": "good/press-7.to')  # a power cut in mid-line
    store = Store(tmp_path, quotas())
    assert not left.exists()
    put(store, "good", 3)
    assert [json.loads(line)["file"] for line in index.read_text().splitlines()] == [
        f"good/press-7.top.7.{n}.png" for n in (1, 2, 3)
    ]
    assert len(assert_whole(tmp_path)) == 3


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_fails_at_any_sync_leaves_no_image_without_its_line(tmp_path, monkeypatch, failing):
    store = Store(tmp_path, quotas())
    put(store, "good", 1)
    syncs, fsync = iter(range(1, 100)), os.fsync

    def sync(descriptor: int) -> None:
        if next(syncs) >= failing:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", sync)
        if failing < 3:
            with pytest.raises(OSError, match="Input/output"):
                put(store, "good", 2)
        else:
            put(store, "good", 2)
    assert len(assert_whole(tmp_path)) == (1 if failing < 3 else 2)
    assert not list(tmp_path.rglob(".*"))
    assert put(Store(tmp_path, quotas()), "good", 3) == [True]
    assert_whole(tmp_path)


def test_a_line_without_its_image_is_harmless_and_the_index_stays_short(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_agent.spool.store.SPARE_LINES", 10)
    assert SPARE_LINES > 10
    store = Store(tmp_path, quotas(bad=Quota(max_files=3)))
    for n in range(100):
        put(store, "bad", n)
        assert len((tmp_path / "dots/top/frames.jsonl").read_text().splitlines()) <= 2 * 3 + 10 + 1
    assert len(assert_whole(tmp_path)) == 3


def test_what_others_put_there_is_neither_counted_nor_deleted(tmp_path):
    put(Store(tmp_path, quotas()), "good", 1)
    theirs = tmp_path / "dots/top/good/photo.png"
    theirs.write_bytes(encode_frame(picture(8)))
    store = Store(tmp_path, quotas(good=Quota(max_files=1)))
    assert store.files == 1
    put(store, "good", 2)
    assert theirs.exists()
    assert not (tmp_path / "dots/top/good/press-7.top.7.1.png").exists()


def test_a_reviewer_may_move_an_image_to_another_folder(tmp_path):
    put(Store(tmp_path, quotas()), "bad", 1, 2)
    (tmp_path / "dots/top/good").mkdir()
    (tmp_path / "dots/top/bad/press-7.top.7.1.png").rename(tmp_path / "dots/top/good/press-7.top.7.1.png")
    store = Store(tmp_path, quotas(good=Quota(max_files=1)))
    assert store.files == 2
    put(store, "good", 3)
    assert numbers(tmp_path, "good") == [3]


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_safe_name_is_one_plain_level_of_a_path_and_its_own(text, other):
    name = safe_name(text)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name.encode()) <= 64
    assert (safe_name(other) == name) == (other == text)


@pytest.mark.parametrize("product", ["../../outside", "/etc", "..", ".hidden", "a/b", "", "ß\0", "x" * 500])
def test_no_product_leads_out_of_the_spool(tmp_path, product):
    store = Store(tmp_path / "spool", quotas())
    put(store, "good", 1, place=Place(product, "top"))
    (image,) = (tmp_path / "spool").glob("*/top/good/*.png")
    assert cv2.imread(str(image)) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
