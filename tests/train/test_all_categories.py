"""The table command: what is finished stays, what was stopped goes on, and what fails keeps no other from its turn."""

import json
import shutil
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from train import all_categories
from train.__main__ import app
from train.data.draw import draw_product_line

TINY = ("--config", "tiny", "--set", "filters=2", "--set", "epochs=1", "--set", "steps_per_epoch=4")
BROKEN = "has 1 different good image to train on that can be read; at least 8 are needed"


def table(data: Path, out: Path, *more: str, settings: tuple[str, ...] = TINY):
    return CliRunner().invoke(app, ["table", "aesc", "--data", str(data), "--out", str(out), *settings, *more])


def no_training(*arguments, **options):
    raise AssertionError("trained what was trained already")


@pytest.fixture(scope="module")
def categories(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("categories")
    for name, seed in (("bottle", 0), ("screw", 3)):
        draw_product_line(folder / name, seed=seed, size=64, train=24, test_good=4, defects_per_type=2)
    (folder / "grid/train/good").mkdir(parents=True)
    shutil.copy(folder / "bottle/train/good/000.png", folder / "grid/train/good/000.png")
    return folder


@pytest.fixture(scope="module")
def stopped(categories, tmp_path_factory) -> Path:
    """Runs of a table that was stopped after screw was trained and before it was judged."""
    out = tmp_path_factory.mktemp("table") / "runs"
    judge = all_categories.judge_run

    def interrupted(run, dataset):
        if run.product == "screw":
            raise KeyboardInterrupt
        return judge(run, dataset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_categories, "judge_run", interrupted)
        done = table(categories, out)
    assert done.exit_code == 1
    assert "Stopped. The same command goes on from the last checkpoint." in done.output
    return out


@pytest.fixture(scope="module")
def finished(categories, stopped) -> Path:
    """The same after a second call, which trains nothing that was trained."""
    before = json.loads((stopped / "table.json").read_text())
    assert before["complete"] is False
    assert 0 <= before["categories"]["bottle"]["image_auroc"]["mean"] <= 1
    assert before["categories"]["screw"]["image_auroc"] is None
    assert "1 of 3 runs are still to come." in (stopped / "table.md").read_text()
    kept = {path: path.stat().st_mtime_ns for path in (stopped / "bottle").rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_categories, "train_run", no_training)
        done = table(categories, stopped)
    assert done.exit_code == 1, done.output  # grid is broken
    assert f"grid, seed 0: {categories}/grid {BROKEN}" in done.stdout
    assert "1 of 3 runs failed." in done.output
    assert {path: path.stat().st_mtime_ns for path in (stopped / "bottle").rglob("*") if path.is_file()} == kept
    return stopped


@pytest.mark.slow
def test_figures_are_those_of_the_runs_and_the_broken_category_is_named(finished):
    result = json.loads((finished / "table.json").read_text())
    assert list(result["categories"]) == ["bottle", "grid", "screw"]
    assert (result["detector"], result["config"], result["seeds"]) == ("aesc", "tiny", [0])
    means = {}
    for name in ("bottle", "screw"):
        metrics = json.loads((finished / name / "seed_0/metrics.json").read_text())
        assert metrics["product"] == name
        (run,) = result["categories"][name]["runs"]
        assert run["run"] == f"{name}/seed_0" and run["error"] is None
        for metric in ("image_auroc", "pixel_auroc", "aupro"):
            assert result["categories"][name][metric] == {"mean": metrics[metric], "spread": None}
            means.setdefault(metric, []).append(metrics[metric])
    for metric, values in means.items():
        assert result["mean"][metric]["mean"] == pytest.approx(sum(values) / 2)
    assert BROKEN in result["categories"]["grid"]["runs"][0]["error"]
    assert result["complete"] is False
    markdown = (finished / "table.md").read_text()
    assert (
        f"| bottle | {means['image_auroc'][0]:.3f} | {means['pixel_auroc'][0]:.3f} | {means['aupro'][0]:.3f} |"
        in markdown
    )
    assert "| grid | – | – | – |" in markdown
    assert "The mean is without grid." in markdown
    assert (finished / "screw/seed_0/report.html").exists()


@pytest.mark.slow
def test_a_mended_set_is_complete_and_nothing_runs_again(categories, finished, tmp_path, monkeypatch):
    data, out = shutil.copytree(categories, tmp_path / "data"), shutil.copytree(finished, tmp_path / "runs")
    shutil.rmtree(data / "grid")
    for name in ("train_run", "judge_run"):
        monkeypatch.setattr(all_categories, name, no_training)
    done = table(data, out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((out / "table.json").read_text())
    assert json.loads(done.stdout)["complete"] is True


@pytest.mark.slow
def test_metrics_of_other_settings_are_not_taken_over(categories, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "runs")
    path = out / "bottle/seed_0/metrics.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"config_digest": "0", "image_auroc": 0.123}))  # evaluate --set ... since
    monkeypatch.setattr(all_categories, "train_run", no_training)
    table(categories, out)
    assert json.loads(path.read_text()) == whole


@pytest.mark.slow
def test_other_images_are_not_mixed_with_what_was_trained(categories, finished, tmp_path, monkeypatch):
    data, out = shutil.copytree(categories, tmp_path / "data"), shutil.copytree(finished, tmp_path / "runs")
    image = cv2.imread(str(data / "bottle/test/good/000.png"))
    cv2.imwrite(str(data / "bottle/test/good/000.png"), 255 - image)
    monkeypatch.setattr(all_categories, "train_run", no_training)
    done = table(data, out)
    assert done.exit_code == 1
    assert f"was trained on other images than {data}/bottle holds now. Give --out a new folder" in done.stdout
    assert json.loads((out / "table.json").read_text())["categories"]["screw"]["image_auroc"] is not None


@pytest.mark.parametrize(
    ("left", "resumed"),
    [
        (("config.yaml", "provenance.json", "checkpoints/3/x"), True),
        (("provenance.json", ".config.yaml.a1b2", "backbone.safetensors"), False),
        ((), False),
    ],
)
def test_a_killed_run_is_resumed_or_begun_anew(categories, tmp_path, monkeypatch, left, resumed):
    run = tmp_path / "runs/bottle/seed_0"
    for name in left:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    seen = {}

    def train(detector, config, dataset, out, *, product, resume):
        seen.setdefault(product, (resume, out.exists() and sorted(path.name for path in out.iterdir())))
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(all_categories, "train_run", train)
    done = table(categories, tmp_path / "runs")
    assert done.exit_code == 1
    assert seen["bottle"] == (resumed, sorted({name.split("/")[0] for name in left}) if resumed else bool(left) and [])
    assert "bottle, seed 0: disk can't be used: No space left on device." in done.stdout
    assert "screw" in seen  # goes on with the others


def test_a_fault_of_the_program_is_a_sentence_and_the_others_go_on(categories, tmp_path, monkeypatch):
    monkeypatch.setattr(all_categories, "train_run", lambda *a, **o: 1 / 0)
    done = table(categories, tmp_path / "runs", "--seeds", "4, 5")
    assert done.exit_code == 1
    assert "screw, seed 5: Unexpected: ZeroDivisionError: division by zero. FAULTLINE_LOG=debug shows" in done.stdout
    assert "6 of 6 runs failed" in done.output
    assert "Traceback" not in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--set", "filters=3"), "was begun with filters: 2, and is to go on with filters: 3. Take the same settings"),
        (("--set", "epoch=3"), "--set epoch is not a setting. Did you mean epochs?"),
        (("--config", "tinny"), "Did you mean tiny?"),
        (("--seeds", "0,x"), "--seeds 0,x: x is no seed. Write numbers, as in 0,1,2."),
        (("--seeds", "0,,1"), "--seeds 0,,1: nothing is no seed."),
        (("--seeds", "1,1"), "--seeds 1,1: 1 is there twice."),
        (("--seeds", "-1"), "-1 is no seed."),
        (("--seeds", "0", "--set", "seed=1"), "--seeds and --set seed=... contradict each other."),
    ],
)
def test_what_would_spoil_every_category_stops_before_any(categories, finished, more, says):
    done = table(categories, finished, *more)
    assert done.exit_code == 2
    assert says in done.output


@pytest.mark.slow
def test_folders_that_are_no_categories_or_no_place_for_runs(categories, finished, tmp_path):
    for data, out, says in (
        (tmp_path / "none", tmp_path / "runs", "none does not exist."),
        (tmp_path, tmp_path / "runs", "holds no categories"),
        (categories, finished / "bottle/seed_0", "is a run folder itself"),
        (categories, categories / "bottle/train/good/000.png", "is a file."),
    ):
        done = table(data, out)
        assert (done.exit_code, says in done.output) == (2, True)
    damaged = shutil.copytree(finished, tmp_path / "damaged")
    (damaged / "table.json").write_text("{")
    done = table(categories, damaged)
    assert done.exit_code == 2 and "table.json is damaged. Delete it" in done.output


@pytest.mark.parametrize("verb", ["table", "unpack"])
def test_help_has_an_example(verb):
    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0
    assert f"python -m train {verb}" in done.output


def test_fit_of_a_folder_of_categories_names_this_command(categories, tmp_path):
    done = CliRunner().invoke(app, ["fit", "aesc", "--data", str(categories), "--out", str(tmp_path / "run"), *TINY])
    assert done.exit_code == 2
    assert f"python -m train table DETECTOR --data {categories} --out RUNS" in done.output.replace("\n", "")


def test_unpack_says_what_to_give(tmp_path):
    done = CliRunner().invoke(app, ["unpack", "cifar100", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "There are cifar10 and mnist" in done.output
    done = CliRunner().invoke(app, ["unpack", "cifar10", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "holds no batches of CIFAR-10" in done.output
