"""The table's arithmetic and words, on made-up outcomes, beside the figures that are published."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from train.all_categories import Outcome, Plan
from train.category_table import as_json, as_markdown, as_text, make_table
from train.config import RunConfig
from train.detectors import find_detector
from train.published import figures, published_for, read_published

MVTEC = read_published().benchmarks[0].categories


class Backboned(RunConfig, frozen=True):
    backbone: str = "resnet18"


def plan(categories, seeds=(0,), backbone="resnet18", name="fastflow") -> Plan:
    detector = replace(find_detector("aesc"), name=name)
    configs = {seed: Backboned(backbone=backbone, seed=seed) for seed in seeds}
    return Plan(detector, "cpu", configs, {name: Path(name) for name in categories}, Path("runs"))


def outcome(category: str, seed: int, image: float | None, pixel: float | None = 0.5, **more) -> Outcome:
    metrics = {"image_auroc": image, "pixel_auroc": pixel, "aupro": None, "seed": seed}
    return Outcome(category, seed, Path(category, f"seed_{seed}"), {} if more else metrics, **more)


def test_published_figures_agree_with_their_own_means():
    for column in read_published().columns:
        if column.categories:
            assert abs(statistics.fmean(column.categories) - column.mean) < 0.00101, column
            assert all(0.5 < value <= 1 for value in column.categories)


@pytest.mark.parametrize("backbone", ["resnet18", "wide_resnet50_2", "deit_base_distilled_384", "cait_m48_448"])
def test_every_backbone_of_the_paper_finds_anomalibs_column_and_the_papers_means(backbone):
    columns = published_for("fastflow", Backboned(backbone=backbone), MVTEC)
    by = {(column.source, column.metric): column for column in columns}
    assert len(by) == len(columns)
    assert len(by["anomalib", "image_auroc"].categories) == len(by["anomalib", "pixel_auroc"].categories) == 15
    assert bool(by["paper", "image_auroc"].categories) == (backbone == "cait_m48_448")
    assert by["gathierry", "pixel_auroc"].categories == ()


def test_figures_as_the_sheet_has_them():
    (image,) = [
        c
        for c in published_for("fastflow", Backboned(), ["screw"])
        if c.source == "anomalib" and c.metric == "image_auroc"
    ]
    assert figures(image)["screw"] == 0.521
    paper = published_for("fastflow", Backboned(backbone="cait_m48_448"), ["Metal nut"])
    assert [(c.tag, figures(c)["toothbrush"]) for c in paper if c.source == "paper"] == [("sec", 0.944), ("sec", 0.989)]
    assert [c.tag for c in published_for("fastflow", Backboned(), MVTEC) if c.source == "paper"] == ["recall", "sec"]


def test_no_figures_of_another_detector_backbone_or_product():
    assert published_for("aesc", RunConfig(), MVTEC) == []
    assert published_for("fastflow", Backboned(backbone="dinov2_vits14"), MVTEC) == []
    assert published_for("fastflow", Backboned(), ["flange"]) == []
    assert {c.benchmark for c in published_for("fastflow", Backboned(backbone="mini"), ["01", "02", "03"])} == {"BTAD"}
    assert {c.benchmark for c in published_for("fastflow", Backboned(backbone="mini"), ["cat", "dog"])} == {"CIFAR-10"}


def test_mean_and_spread_are_over_seeds():
    outcomes = [
        outcome("bottle", 0, 0.9),
        outcome("bottle", 1, 0.8),
        outcome("screw", 0, 0.7),
        outcome("screw", 1, 0.4),
    ]
    table = make_table(plan(["bottle", "screw"], (0, 1)), outcomes)
    bottle, screw = (row.ours["image_auroc"] for row in table.rows)
    assert (bottle.mean, bottle.spread) == (pytest.approx(0.85), pytest.approx(0.1 / math.sqrt(2)))
    assert (screw.mean, screw.spread) == (pytest.approx(0.55), pytest.approx(0.3 / math.sqrt(2)))
    mean = table.mean.ours["image_auroc"]  # 0.8 of the first seed, 0.6 of the second
    assert (mean.mean, mean.spread) == (pytest.approx(0.7), pytest.approx(0.2 / math.sqrt(2)))
    assert "aupro" not in table.mean.ours
    text = as_text(table)
    assert "0.850 ± 0.071" in text and "seeds 0, 1" in text


def test_a_seed_that_lacks_a_category_is_not_in_the_spread_of_the_mean():
    outcomes = [outcome("bottle", 0, 0.9), outcome("bottle", 1, 0.8), outcome("screw", 0, 0.7)]
    outcomes.append(outcome("screw", 1, None, error="The loss of step 3 is nan."))
    table = make_table(plan(["bottle", "screw"], (0, 1)), outcomes)
    assert table.mean.ours["image_auroc"].mean == pytest.approx((0.85 + 0.7) / 2)
    assert table.mean.ours["image_auroc"].spread is None
    assert "screw, seed 1: The loss of step 3 is nan." in as_text(table)


def test_published_means_are_over_the_same_categories_as_ours():
    two = make_table(plan(["bottle", "screw"]), [outcome("bottle", 0, 1.0), outcome("screw", 0, 0.9)])
    by = {(c.source, c.metric): mean for c, mean in zip(two.columns, two.mean.published, strict=True)}
    assert by["anomalib", "image_auroc"] == pytest.approx((1.0 + 0.521) / 2)
    whole = make_table(plan(MVTEC), [outcome(name, 0, 0.9) for name in MVTEC])
    assert 0.907 in whole.mean.published
    beyond = make_table(plan(["bottle", "tile_floor"]), [outcome("bottle", 0, 1.0), outcome("tile_floor", 0, 0.9)])
    assert beyond.mean.published == (None, None)
    assert beyond.rows[1].published == (None, None)


def test_the_table_says_whose_figures_stand_beside_ours():
    table = make_table(
        plan(["bottle", "metal nut"]), [outcome("bottle", 0, 0.9995), outcome("metal nut", 0, 0.5, None)]
    )
    text, markdown = as_text(table), as_markdown(table)
    for said in (text, markdown):
        assert "fastflow, config cpu, backbone resnet18, seed 0" in said
        assert "anomalib: its README, one seed, early stopping (read in a secondary text)." in said
        assert (
            "Paper, image AUROC, mean of the 15 categories of MVTec AD: 0.979 (from memory of the paper; per category "
            "not found)." in said
        )
        assert "97.2 % at the epoch that was best on the test images" in said
    lines = text.splitlines()
    assert lines[2].split() == ["Faultline", "anomalib"]
    assert lines[3].split("  ")[0] == "category"
    assert lines[5].split() == ["metal", "nut", "0.500", "–", "–", "0.963", "0.972"]
    assert len({len(line) for line in lines[3:7]}) == 1  # figures below one another
    assert (
        "| category | image AUROC | pixel AUROC | AUPRO | anomalib: image AUROC | anomalib: pixel AUROC |" in markdown
    )
    assert "| metal nut | 0.500 | – | – | 0.963 | 0.972 |" in markdown


def test_json_holds_every_run_and_the_published_figures_with_their_source():
    outcomes = [outcome("bottle", 0, 0.9), outcome("screw", 0, float("nan"), error="Broken.")]
    result = as_json(make_table(plan(["bottle", "screw"]), outcomes))
    assert result["categories"]["bottle"]["runs"] == [
        {"seed": 0, "run": "bottle/seed_0", "image_auroc": 0.9, "pixel_auroc": 0.5, "aupro": None, "error": None}
    ]
    assert result["settings"]["backbone"] == "resnet18" and "seed" not in result["settings"]
    published = {(column["source"], column["metric"]): column for column in result["published"]}
    assert published["anomalib", "image_auroc"]["categories"]["screw"] == 0.521
    assert published["paper", "image_auroc"] == {
        "benchmark": "MVTec AD",
        "setting": {"backbone": "resnet18"},
        "metric": "image_auroc",
        "source": "paper",
        "tag": "recall",
        "where": "per category not found",
        "mean": 0.979,
        "categories": None,
        "mean_over_the_same": None,
    }


def test_a_detector_without_published_figures_has_no_such_columns():
    table = make_table(plan(["bottle"], name="aesc"), [outcome("bottle", 0, 0.9)])
    assert table.columns == table.means_only == ()
    assert as_text(table).splitlines()[0] == "aesc, config cpu, seed 0"
