"""What a person types and reads: exit codes, sentences, nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from train.__main__ import app
from train.data.defects import open_defects, split_json
from train.data.draw import draw_product_line
from train.verbs.detectors import cautions

FIT = ("--config", "tiny", "--set", "filters=2", "--set", "epochs=1", "--set", "steps_per_epoch=4")


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "line"
    draw_product_line(folder, size=64, train=24, test_good=4, defects_per_type=2)
    return folder


@pytest.fixture(scope="module")
def fitted(line, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli_runs") / "run"
    done = run("fit", "aesc", "--data", line, "--out", out, *FIT)
    assert done.exit_code == 0, done.output
    assert f"Next: python -m train evaluate {out} --data {line}" in done.output.replace("\n", "")
    return out


@pytest.mark.parametrize("verb", ["fit", "evaluate", "draw", "synthesize", "crop-normal"])
def test_help_has_an_example(verb):
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert f"python -m train {verb}" in done.output


def test_evaluate_writes_metrics_and_one_page(fitted, line):
    done = run("evaluate", fitted, "--data", line, "--json")
    assert done.exit_code == 0, done.output
    metrics = json.loads((fitted / "metrics.json").read_text())
    assert json.loads(done.stdout) == metrics
    for key in ("image_auroc", "pixel_auroc", "aupro", "image_f1_max"):
        assert 0 <= metrics[key] <= 1
    assert metrics["n_normal"] == 4
    assert metrics["seed"] == 0
    assert set(metrics["escape_rate"]) == {path.name for path in (line / "test").iterdir()} - {"good"}
    assert "<html" in (fitted / "report.html").read_text()


def test_evaluate_leaves_out_what_a_generator_was_trained_on(fitted, line, tmp_path):
    split = split_json(open_defects(line, defects_per_type=1))
    (tmp_path / "split.json").write_text(json.dumps(split))
    done = run("evaluate", fitted, "--data", line, "--generator", tmp_path)
    assert done.exit_code == 0, done.output
    metrics = json.loads((fitted / "metrics.json").read_text())
    types = len(split["categories"])
    assert metrics["left_out"]["n"] == types
    assert set(metrics["n_per_defect"].values()) == {1}
    assert f"{types} test images are left out, for a generator" in done.stderr
    assert "test images are left out, for a generator" in (fitted / "report.html").read_text()


def test_a_flat_folder_of_good_images_is_enough(line, tmp_path):
    shutil.copytree(line / "train" / "good", tmp_path / "good_parts")
    out = tmp_path / "run"
    assert run("fit", "aesc", "--data", tmp_path / "good_parts", "--out", out, *FIT).exit_code == 0
    done = run("evaluate", out, "--data", tmp_path / "good_parts", "--json")
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    assert metrics["image_auroc"] is None
    assert 0 <= metrics["stain_detection_rate_held_out"] <= 1
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fit", "aecs"), "aecs is not a detector. Did you mean aesc?"),
        (("fit", "aesc", "--config", "tinny"), "Did you mean tiny?"),
        (("fit", "aesc", "--set", "epoch=1"), "Did you mean epochs?"),
    ],
)
def test_wrong_words_are_answered_with_the_nearest_right_one(line, tmp_path, arguments, sentence):
    done = run(*arguments, "--data", line, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_images_that_would_spoil_the_training_stop_it_before_it_starts(line, tmp_path):
    data = tmp_path / "line"
    shutil.copytree(line, data)
    good = sorted((data / "train" / "good").iterdir())
    good[0].write_bytes(good[0].read_bytes()[:200])
    shutil.copy(good[1], data / "test" / "good" / "copy.png")
    done = run("fit", "aesc", "--data", data, "--out", tmp_path / "run", *FIT)
    assert done.exit_code == 2
    assert good[0].name in done.output
    assert "copy.png" in done.output
    assert "nothing was trained" in done.output
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(tmp_path):
    done = run("fit", "aesc", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *FIT)
    assert done.exit_code == 2
    assert "nowhere does not exist" in done.output


def test_evaluate_of_something_else_says_what_to_name(line, tmp_path):
    done = run("evaluate", tmp_path, "--data", line)
    assert done.exit_code == 2
    assert "is not the run folder of a detector" in done.output


def test_a_generators_folder_is_called_one(line, tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"system": "adabldm"}))
    done = run("evaluate", tmp_path, "--data", line)
    assert done.exit_code == 2
    assert (
        "is not the run folder of a detector, but a run of adabldm. Name the --out folder of `train fit`" in done.output
    )


def test_a_run_that_is_worse_than_chance_is_said_to_be():
    assert cautions({"image_auroc": 0.37})[0].startswith("Worse than chance: good parts score higher")
    assert cautions({"image_auroc": 0.5}) == cautions({"image_auroc": None}) == cautions({}) == []


def test_draw_refuses_a_folder_that_holds_something(line):
    done = run("draw", "--out", line)
    assert done.exit_code == 2
    assert str(line.name) in done.output
