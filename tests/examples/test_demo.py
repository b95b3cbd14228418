"""The demo as a user starts it: what it prints, what it leaves behind, and how it ends when something is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_agent.bundle import open_bundle
from edge_agent.messages import Result
from edge_agent.preprocess import read_image
from examples.belt import fill_belt
from train.data.draw import draw_product_line
from train.data.folder import open_dataset

ROOT = Path(__file__).parents[2]
# Compiled as for a user, where the other tests go without LLVM's optimisation (tests/conftest.py)
AS_SHIPPED = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
COMMAND = [sys.executable, str(ROOT / "examples" / "demo.py")]
SETTINGS = {
    "image_size": 64,
    "filters": 2,
    "batch_size": 4,
    "epochs": 1,
    "steps_per_epoch": 4,
    "validation_samples": 4,
    "norm_momentum": 0.5,
}
VERDICT = re.compile(r"(demo\.camera\.\d+\.\d+) +(pass|reject|unknown) +([\d.]+|-) +[\d.]+ ms  (\S+)")


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "seconds.yaml"
    path.write_text(json.dumps(SETTINGS))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "line"
    draw_product_line(folder, size=64, train=10, test_good=6, defects_per_type=3)
    return folder


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False, env=AS_SHIPPED
    )


def assert_whole(done: subprocess.CompletedProcess[str], out: Path) -> list[Result]:
    """One line per part, as received; and all that the last lines point to is there."""
    assert done.returncode == 0, done.stdout + done.stderr
    results = [Result.model_validate_json(text) for text in (out / "verdicts.jsonl").read_text().splitlines()]
    printed = VERDICT.findall(done.stdout)
    assert [(r.result_id, r.verdict, r.part) for r in results] == [(id_, v, part) for id_, v, _, part in printed]
    assert [result.sequence for result in results] == list(range(len(results)))
    assert sorted(result.part for result in results) == sorted(path.name for path in (out / "parts").iterdir())
    assert not any(result.historical for result in results)
    rejects = {result.result_id for result in results if result.verdict == "reject"}
    pictures = {path.stem: path for path in (out / "rejects").iterdir()}
    assert set(pictures) == rejects
    assert all(read_image(path).shape == (64, 64, 3) for path in pictures.values())
    bundle = open_bundle(out / "bundle", public_key=out / "keys" / "demo.pem.pub")
    assert {result.model.digest for result in results} == {bundle.digest}
    assert str(out / "run" / "report.html") in done.stdout
    assert (out / "run" / "report.html").is_file()
    assert re.search(r"Total time: (\d+ min )?\d+ s$", done.stdout.rstrip())
    assert "\x1b" not in done.stdout  # plain where it is no terminal
    assert "Traceback" not in done.stdout + done.stderr
    return results


@pytest.mark.slow
def test_the_demo_goes_the_whole_way_and_overwrites_nothing(tmp_path, config):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    done = demo("--out", out, "--config", config, "--count", 10)
    assert f"{out} holds something already and is left alone; this demo goes to {out}-2." in done.stdout
    results = assert_whole(done, tmp_path / "demo-2")
    labels = Counter(re.match(r"\d+-(\w+)-", result.part)[1] for result in results)
    assert labels == {"good": 20, "scratch": 8, "stain": 8, "missing_piece": 8, "crack": 8}
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    for verb in ("train draw", "train fit", "train evaluate", "export keygen", "export bundle", "edge_agent run"):
        assert f"$ python -m {verb} " in done.stdout  # the demo shows what a user would type


@pytest.mark.slow
def test_good_images_only_are_judged_with_and_without_a_stain_and_it_says_so(tmp_path, config, line):
    flat = tmp_path / "caps today"
    shutil.copytree(line / "train" / "good", flat)
    done = demo("--data", flat, "--out", tmp_path / "out", "--config", config)
    results = assert_whole(done, tmp_path / "out")
    assert Counter(result.part.split("-")[1] for result in results) == {"held_out": 4, "stained": 4}
    assert results[0].model.name == "caps today"
    assert "Your folder holds good parts only." in done.stdout


@pytest.mark.slow
def test_the_demo_with_fastflow_goes_the_whole_way(tmp_path, line):
    done = demo("--data", line, "--out", tmp_path / "out", "--detector", "fastflow", "--config", "tiny")
    results = assert_whole(done, tmp_path / "out")
    assert {result.model.system for result in results} == {"fastflow"}


def test_images_that_cannot_be_used_are_named_with_exit_code_2_and_nothing_is_written(tmp_path, line):
    (tmp_path / "few").mkdir()
    shutil.copy(line / "train" / "good" / "000.png", tmp_path / "few")
    done = demo("--data", tmp_path / "few", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert re.search(r"error: .*few has .*Record more good parts\.", done.stderr), done.stderr
    assert "That step failed; the lines above say why." in done.stdout
    assert "verdict" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_the_demo_and_its_children(tmp_path):
    command = [*COMMAND, "--out", str(tmp_path / "stopped")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        while not (text := process.stdout.readline()).startswith("$ python -m train draw"):
            assert text, "it ended before its first step"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()  # ends when the last child has closed it
        assert process.wait() == 1
    assert "Stopped." in rest
    assert "Traceback" not in rest
    drawn = tmp_path / "stopped" / "line"
    assert not drawn.exists() or (drawn / "ground_truth").is_dir()  # whole, if the signal came late, or absent


def test_the_belt_mixes_the_labels_and_leaves_no_rare_one_out(tmp_path, line):
    dataset = open_dataset(line)
    known = fill_belt(tmp_path / "belt", dataset, run=tmp_path, most=10)
    assert Counter(known.values()) == {"good": 2, "scratch": 2, "stain": 2, "missing_piece": 2, "crack": 2}
    assert list(known) == sorted(path.name for path in (tmp_path / "belt").iterdir())
    assert list(known.values()) != sorted(known.values())
    for name, label in known.items():
        original = line / "test" / label / name.split("-")[2]
        assert (tmp_path / "belt" / name).read_bytes() == original.read_bytes()
    assert len(fill_belt(tmp_path / "all", dataset, run=tmp_path)) == len(dataset.test)


def test_stained_copies_differ_from_their_image_in_one_small_area(tmp_path, line):
    flat = tmp_path / "flat"
    shutil.copytree(line / "train" / "good", flat)
    (tmp_path / "split.json").write_text(json.dumps({"held_out": ["000.png", "003.png"]}))
    known = fill_belt(tmp_path / "belt", open_dataset(flat), run=tmp_path)
    assert Counter(known.values()) == {"held_out": 2, "stained": 2}
    for name, label in known.items():
        image, before = read_image(tmp_path / "belt" / name), read_image(flat / name.split("-")[2])
        changed = np.any(image != before, axis=-1).mean()
        assert changed == 0 if label == "held_out" else 0 < changed < 0.1
