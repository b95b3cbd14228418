"""Evaluation on drawn images with a scorer that can be followed by hand: every count, every degenerate set."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.preprocess import Preprocessing
from train.data.folder import DataError, open_dataset
from train.evaluate import STAIN, About, EvaluationError, HeldOut, evaluate, write_metrics
from train.fit_threshold import Thresholds
from train.metrics.intervals import clopper_pearson

SIZE = 16
PREPROCESSING = Preprocessing(width=SIZE, height=SIZE)
ABOUT = About("ring", "aesc", "residual", 7, "c0ffee", {"jax": "0.10.2"})


def thresholds(image):
    return Thresholds(
        image=image,
        pixel=30.0,
        target_false_reject_rate=0.01,
        supported_false_reject_rate=0.1,
        false_reject_rate_interval=(0.003, 0.34),
        pixel_quantile=0.999,
        n_held_out=9,
        rule="As drawn.",
    )


def score(images):
    """Pixel score: distance from grey level 100; image score: the largest."""
    maps = np.abs(images.astype(np.float32).mean(axis=-1) - 100)
    return maps.max(axis=(1, 2)), maps


def draw(path, *, spot=0, at=(3, 3), size=SIZE):
    """A grey part with a 2 x 2 spot that is `spot` levels brighter."""
    image = np.full((size, size, 3), 100, np.uint8)
    y, x = at
    image[y : y + 2, x : x + 2] += np.uint8(spot)
    save(path, image)


def draw_mask(path, *, at=(3, 3), size=SIZE):
    mask = np.zeros((size, size), np.uint8)
    y, x = at
    mask[y : y + 2, x : x + 2] = 255
    save(path, mask)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def product(tmp_path):
    """Good test parts score 10, 20, 60; dents 40, 80 (no mask) and 90; scratches 30, 145, 100."""
    folder = tmp_path / "ring"
    for index in range(4):
        draw(folder / f"train/good/{index}.png", spot=index)
    for index, spot in enumerate([10, 20, 60]):
        draw(folder / f"test/good/{index}.png", spot=spot)
    for index, spot in enumerate([40, 80, 90]):
        draw(folder / f"test/dent/{index}.png", spot=spot)
        if index != 1:
            draw_mask(folder / f"ground_truth/dent/{index}_mask.png")
    for index, spot in enumerate([30, 145, 100]):
        draw(folder / f"test/scratch/{index}.png", spot=spot, at=(8, 10))
        draw_mask(folder / f"ground_truth/scratch/{index}_mask.png", at=(8, 10))
    return folder


def held_out(spots=(5, 15, 25), stains=(70, 20, 90)):
    good = np.full((len(spots), SIZE, SIZE, 3), 100, np.uint8)
    stained = good.copy()
    for index, (spot, stain) in enumerate(zip(spots, stains, strict=True)):
        good[index, 0, 0] = stained[index, 0, 0] = 100 + spot
        stained[index, 9:12, 9:12] = 100 + stain
    return HeldOut(good, tuple(f"train/good/{index}.png" for index in range(len(spots))), stained)


def test_every_verdict_is_counted_where_it_belongs(product):
    result = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT, held_out=held_out())
    metrics = result.metrics
    assert (metrics["n_normal"], metrics["n_defective"]) == (3, 6)
    assert metrics["n_per_defect"] == {"dent": 3, "scratch": 3}
    assert metrics["false_rejects"] == 1
    assert metrics["false_reject_rate"] == pytest.approx(1 / 3)
    assert metrics["false_reject_rate_interval"] == pytest.approx(clopper_pearson(1, 3))
    assert metrics["false_reject_rate_from"] == "test images"
    assert metrics["escapes"] == {"dent": 1, "scratch": 1}
    assert metrics["escape_rate"] == pytest.approx({"dent": 1 / 3, "scratch": 1 / 3})
    assert metrics["escape_rate_interval"]["dent"] == pytest.approx(clopper_pearson(1, 3))
    assert metrics["escape_rate_overall"] == pytest.approx(2 / 6)
    assert metrics["escape_rate_overall_interval"] == pytest.approx(clopper_pearson(2, 6))
    assert metrics["n_stained_held_out"] == 3
    assert metrics["stain_detection_rate_held_out"] == pytest.approx(2 / 3)
    assert metrics["stain_detection_rate_held_out_interval"] == pytest.approx(clopper_pearson(2, 3))
    # good 10, 20, 60 against 40, 80, 90, 30, 145, 100: 60 beats two of 18 pairs
    assert metrics["image_auroc"] == pytest.approx(16 / 18)
    assert metrics["image_f1_max"] == pytest.approx(12 / 13)
    assert metrics["image_f1_max_threshold"] == 30
    assert metrics["threshold"] == 50
    assert metrics["pixel_threshold"] == 30
    assert metrics["threshold_fit"]["n_held_out"] == 9
    known = {"product": "ring", "system": "aesc", "scoring": "residual", "seed": 7, "config_digest": "c0ffee"}
    assert {key: metrics[key] for key in known} == known
    assert metrics["versions"] == {"jax": "0.10.2"}
    assert len(metrics["data_digest"]) == 64


def test_a_score_equal_to_the_threshold_passes(product):
    metrics = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(60.0), ABOUT).metrics
    assert metrics["false_rejects"] == 0
    assert evaluate(score, open_dataset(product), PREPROCESSING, thresholds(59.9), ABOUT).metrics["false_rejects"] == 1


def test_pixels_of_a_defect_without_mask_count_for_nothing(product):
    metrics = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT).metrics
    assert metrics["n_pixel_images"] == 8  # 3 good, 2 dents, 3 scratches
    assert metrics["n_regions"] == 5
    # Each region has one score; of the good pixels 4 are at 10, 4 at 20, 4 at 60 and all others at 0.
    n_good = 8 * SIZE**2 - 5 * 4
    lost_by = {40: 4, 90: 0, 30: 4, 145: 0, 100: 0}
    assert metrics["pixel_auroc"] == pytest.approx(1 - sum(lost_by.values()) / 5 / n_good, abs=1e-12)
    assert metrics["aupro"] == pytest.approx(1 - sum(lost_by.values()) / 5 / (0.3 * n_good), abs=1e-12)
    assert metrics["pixel_aupr"] == pytest.approx((1 + 1 + 1 + 16 / 20 + 20 / 24) / 5)


def test_without_any_mask_pixel_figures_are_null(product):
    for mask in (product / "ground_truth").rglob("*.png"):
        mask.unlink()
    result = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT)
    assert {key: result.metrics[key] for key in ("pixel_auroc", "pixel_aupr", "aupro")} == {
        "pixel_auroc": None,
        "pixel_aupr": None,
        "aupro": None,
    }
    assert result.metrics["n_pixel_images"] == 0
    assert result.pixel_roc is None
    assert result.metrics["image_auroc"] == pytest.approx(16 / 18)


def test_good_images_only_give_the_fits_rate_and_the_stains_found(tmp_path):
    for index in range(5):
        draw(tmp_path / f"{index}.png", spot=index)
    result = evaluate(score, open_dataset(tmp_path), PREPROCESSING, thresholds(50.0), ABOUT, held_out=held_out())
    metrics = result.metrics
    nothing = "image_auroc image_aupr image_f1_max image_f1_max_threshold pixel_auroc pixel_aupr aupro"
    assert [metrics[key] for key in [*nothing.split(), "false_rejects", "escape_rate_overall"]] == [None] * 9
    assert (metrics["n_normal"], metrics["n_defective"], metrics["escape_rate"]) == (0, 0, {})
    assert metrics["false_reject_rate"] == 0.1
    assert metrics["false_reject_rate_interval"] == [0.003, 0.34]
    assert metrics["false_reject_rate_from"] == "the threshold's fit on held-out images"
    assert metrics["stain_detection_rate_held_out"] == pytest.approx(2 / 3)
    assert [record.label for record in result.records] == ["good"] * 3 + [STAIN] * 3
    picture = result.picture(4)
    assert picture.record.escaped
    np.testing.assert_array_equal(np.argwhere(picture.mask)[[0, -1]], [[9, 9], [11, 11]])
    assert not result.picture(1).mask.any()


def test_nothing_to_judge_is_an_error(tmp_path):
    draw(tmp_path / "0.png")
    with pytest.raises(
        DataError, match=r"holds no test images, and there are no held-out ones. Put defective parts in"
    ):
        evaluate(score, open_dataset(tmp_path), PREPROCESSING, thresholds(50.0), ABOUT)


def test_batches_have_one_size_and_their_filling_is_never_counted(product):
    sizes, done = [], []

    def counting(images):
        sizes.append(images.shape)
        return score(images)

    dataset = open_dataset(product)
    by_four = evaluate(
        counting, dataset, PREPROCESSING, thresholds(50.0), ABOUT, held_out=held_out(), batch_size=4,
        on_progress=lambda *progress: done.append(progress),
    )  # fmt: skip
    by_one = evaluate(score, dataset, PREPROCESSING, thresholds(50.0), ABOUT, held_out=held_out(), batch_size=1)
    assert sizes == [(4, SIZE, SIZE, 3)] * 4
    assert done == [(4, 15), (8, 15), (12, 15), (15, 15)]
    assert by_four.metrics == by_one.metrics
    assert by_four.records == by_one.records
    np.testing.assert_array_equal(by_four.anomaly_maps, by_one.anomaly_maps)


def test_images_and_masks_go_through_the_lines_preprocessing(product):
    for path in [*(product / "test/dent").iterdir()]:
        draw(path, spot=60, size=4 * SIZE, at=(32, 40))
        draw_mask(product / f"ground_truth/dent/{path.stem}_mask.png", size=4 * SIZE, at=(32, 40))
    large = Preprocessing(width=8, height=8, crop=(8, 0, 8, 8))
    for path in product.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image.shape[0] == SIZE:
            save(path, cv2.resize(image, (4 * SIZE, 4 * SIZE), interpolation=cv2.INTER_NEAREST))
    result = evaluate(score, open_dataset(product), large, thresholds(50.0), ABOUT)
    assert result.anomaly_maps.shape == (9, 8, 8)
    picture = result.picture(0)
    assert picture.image.shape == (8, 8, 3)
    assert picture.mask.shape == (8, 8)


def test_picture_is_the_image_of_its_record(product):
    result = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT, held_out=held_out())
    for index, record in enumerate(result.records):
        picture = result.picture(index)
        scores, maps = score(picture.image[None])
        assert scores[0] == record.score
        np.testing.assert_array_equal(maps[0], picture.anomaly_map)
    names = {record.name: index for index, record in enumerate(result.records)}
    assert result.picture(names["test/dent/1.png"]).mask is None
    assert result.picture(names["test/dent/0.png"]).mask.sum() == 4


def never(images):
    raise AssertionError("something was scored")


def test_an_unreadable_image_is_named_before_anything_is_scored(product):
    (product / "test/scratch/2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test/scratch/2\.png"):
        evaluate(never, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT)


def test_a_mask_of_another_size_is_named_before_anything_is_scored(product):
    draw_mask(product / "ground_truth/dent/2_mask.png", size=SIZE + 1)
    with pytest.raises(
        DataError, match=r"dent/2_mask\.png is 17 x 17 pixels, but its image is 16 x 16\. .* draw it again"
    ):
        evaluate(never, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT)


def test_a_crop_beyond_an_image_is_named_before_anything_is_scored(product):
    with pytest.raises(DataError, match="reaches beyond the frame"):
        evaluate(
            never, open_dataset(product), Preprocessing(width=8, height=8, crop=(9, 9, 8, 8)), thresholds(50.0), ABOUT
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("where", ["image", "pixel"])
def test_a_score_that_is_no_score_stops_with_the_images_name(product, bad, where):
    def broken(images):
        scores, maps = score(images)
        for index in np.flatnonzero(scores == 145):
            if where == "image":
                scores[index] = bad
            else:
                maps[index, 2, 2] = bad
        return scores, maps

    with pytest.raises(EvaluationError, match=rf"The {where} scores of test/scratch/1\.png .* finite and not negative"):
        evaluate(broken, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT)


def test_metrics_file_is_json_without_nan(tmp_path, product):
    metrics = evaluate(score, open_dataset(product), PREPROCESSING, thresholds(50.0), ABOUT).metrics
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics)
    assert json.loads(path.read_text()) == metrics
    write_metrics(
        path, {"a": float("nan"), "b": [np.float32(0.5), np.inf], "c": {"d": np.array([1.0, np.nan])}, "e": ()}
    )
    assert json.loads(path.read_text()) == {"a": None, "b": [0.5, None], "c": {"d": [1.0, None]}, "e": []}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"aupro": 0.5})

    def power_cut(self, target):
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_metrics(path, {"aupro": 0.75})
    assert json.loads(path.read_text()) == {"aupro": 0.5}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
