"""AdaBLDM's jobs, the whole way: the verb, what it writes, parts and kills, and words that are refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from drawn_painter import tree
from typer.testing import CliRunner
from untrained_adabldm import CATEGORIES, SIZE, images, make_run

import train.generators.run
from export.errors import InputError
from export.paint import EnginePainter
from train.__main__ import app
from train.config import ConfigError, load_config
from train.data.defects import open_defects
from train.data.folder import open_dataset
from train.generators import find_generator
from train.generators.fit import fit_generator
from train.generators.run import TrainedGenerator
from train.restore import RunError
from train.synthesis.jax_painter import painter_of
from train.synthesis.job import Request, synthesize
from train.synthesis.regions import parse_region
from train.synthesis.report import write_job_report
from train.synthesis.sources import find_sources
from train.synthesis.wishes import Wishes

FEW = ("epochs=1", "domain_epochs=1", "steps_per_epoch=1", "stages=1/1/1", "adaptation_steps=2")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Stripes with a bright spot or a dark line, and masks, as MVTec AD lies."""
    folder, random = tmp_path_factory.mktemp("drawn") / "parts", np.random.default_rng(0)
    for name, count in (("train/good", 8), ("test/good", 2), ("test/spot", 4), ("test/line", 4)):
        for number, image in enumerate(images(count, seed=len(name))):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            x, y = random.integers(4, 24, 2)
            if not name.endswith("good"):
                mask[y : y + 6, x : x + 6] = 255
                image[mask > 0] = 250 if name == "test/spot" else 5
                write(folder / name.replace("test", "ground_truth") / f"{number:03}_mask.png", mask)
            write(folder / name / f"{number:03}.png", image)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> TrainedGenerator:
    return make_run(tmp_path_factory.mktemp("runs") / "untrained", object="striped_part")


@pytest.fixture
def run(untrained, monkeypatch) -> Path:
    """What the verb is given for its folder; opening a run is tested where one is trained."""
    monkeypatch.setattr(train.generators.run, "open_generator", lambda folder: untrained)
    return untrained.folder


def write(path: Path, levels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.asarray(levels, np.uint8))
    return path


def say(*words):
    return CliRunner().invoke(app, ["synthesize", *map(str, words)])


def test_the_verb_draws_a_set_that_the_rest_reads_and_shows_how(run, parts, tmp_path):
    out = tmp_path / "out"
    words = [run, "--data", parts, "--out", out, "--count", 3, "--batch", 2, "--sheets"]
    done = say(*words, "--json")
    assert done.exit_code == 0, done.output
    assert "3 images of this call (2 line, 1 spot)" in done.output
    dataset = open_dataset(out)
    assert dataset.skipped == ()
    assert sorted(sample.label for sample in dataset.test) == ["line", "line", "spot"]
    for sample in dataset.test:
        about = json.loads((out / f"provenance/{sample.label}/{sample.path.stem}.json").read_text())
        mask = cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
        soft = cv2.imread(str(out / f"soft_masks/{sample.label}/{sample.path.name}"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(mask, soft)
        assert (mask == 255).sum() == about["mask"]["pixels"] == about["drawing"]["mask_pixels"] > 0
        assert about["drawing"]["prompt"] == f"striped part, a striped part with a {sample.label}"
        assert about["generator"]["drawing"]["stages"] == "1/1/1"
        drawn, before = cv2.imread(str(sample.path)), cv2.imread(str(parts / about["source"]["name"]))
        error = (np.abs(drawn.astype(float) - before)[mask == 0] / 255).mean()
        assert about["drawing"]["fidelity"]["error"] == pytest.approx(error, rel=1e-3)
        strip = cv2.imread(str(out / f"sheets/{sample.label}/{sample.path.name}"))
        np.testing.assert_array_equal(strip[:, :SIZE], before)
        np.testing.assert_array_equal(strip[:, -2 * SIZE - 2 : -SIZE - 2], drawn)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "after free | after latent edit | after image edit = before adaptation | after adaptation" in page
    assert "psnr before: " in page
    again = say(*words)
    assert "3 of 3 images are there already" in again.output
    other = say(*words, "--guidance", 3)
    assert other.exit_code == 2
    assert "was begun with generator.drawing.guidance 9.0, and now it is 3.0" in other.output


def test_parts_and_a_longer_job_make_up_the_whole(untrained, parts, tmp_path):
    painter = painter_of(untrained, Wishes(batch=2))

    def work(name, count, shard=(1, 1)):
        request = Request(count, tuple((c,) for c in CATEGORIES), parse_region("box:0,0,32,20"), seed=3, shard=shard)
        return synthesize(painter, find_sources(parts, side="train", seed=3, restore=False), request, tmp_path / name)

    work("whole", 5)
    work("parts", 5, (2, 2))
    work("parts", 3, (1, 2))
    assert work("parts", 5, (1, 2)).kept == 2
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    write_job_report(tmp_path / "whole")
    assert not (tmp_path / "whole" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--category", "line+spot"], "can't draw several at once. Give them one by one"),
        (["--restore"], "adabldm draws defects and takes none away. Leave --restore out"),
        (["--prompt", "a {defect} " * 30], r"--prompt: The prompt .* has 60 tokens; at most 16 are read"),
        (["--stages", "seed_countdwn"], r"--stages is seed_countdwn. .* Did you mean seed_countdown?"),
        (["--shape", "WIDE"], "it is 32 x 32 pixels, but wide.png is 40 x 32 pixels"),
        (["--shape", "LARGE", "--region", "box:0,0,5,5"], "has 400 pixels at model size, more than the 25 where"),
        (["--trimap", "LARGE", "--region", "box:0,0,5,5"], "391 of the 400 pixels .* lie off the part, or outside"),
    ],
)
def test_words_that_mean_nothing_are_a_sentence_and_nothing_is_written(run, parts, tmp_path, words, sentence):
    large = np.zeros((SIZE, SIZE))
    large[2:22, 2:22] = 255
    files = {
        "WIDE": write(tmp_path / "wide.png", np.full((32, 40), 255)),
        "LARGE": write(tmp_path / "large.png", large),
    }
    given = [files.get(word, word) for word in words]
    done = say(run, "--data", parts, "--out", tmp_path / "out", "--count", 2, *given)
    assert done.exit_code == 2, done.output
    assert re.search(sentence, done.output), done.output
    assert not (tmp_path / "out").exists()


def test_wishes_are_for_generators_that_draw_in_many_steps_and_engines_for_others(untrained, tmp_path):
    defect_gan = find_generator("defect_gan")
    config = defect_gan.schema.model_validate({"categories": ("line",), "exclusive": True})
    single = TrainedGenerator(tmp_path, defect_gan, config, 0, {}, {"product": "part"})
    for option, wishes in (("--prompt", Wishes(prompt="rust")), ("--sheets", Wishes(sheets=True))):
        with pytest.raises(ConfigError, match=f"{option} has no meaning for defect_gan, which draws in a single pass"):
            painter_of(single, wishes)
    assert painter_of(single, Wishes(batch=3)).batch == 3
    with pytest.raises(ConfigError, match="--batch is 0. Give 1 or more"):
        painter_of(single, Wishes(batch=0))
    with pytest.raises(InputError, match="adabldm is no single graph, so engines can't draw with it. Leave --engine"):
        EnginePainter(untrained, "onnxruntime")
    with pytest.raises(RunError, match="adabldm draws in many steps, not in one. Let `train synthesize` draw"):
        untrained.noise(jax.random.split(jax.random.key(0), 2))


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(parts, tmp_path):
    """Of a run on disk, by processes of their own."""
    run, adabldm = tmp_path / "run", find_generator("adabldm")
    config = load_config(Path("configs/adabldm/tiny.yaml"), adabldm.schema, FEW)
    fit_generator(adabldm, config, open_defects(parts), run, product="striped_part")
    words = ["--data", str(parts), "--count", "4", "--seed", "1"]
    assert say(run, *words, "--out", tmp_path / "whole").exit_code == 0
    whole, out = tree(tmp_path / "whole"), tmp_path / "out"
    command = [sys.executable, "-m", "train", "synthesize", str(run), *words, "--out", str(out)]
    for seen in (1, 2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ})
        while process.poll() is None and len(list(out.glob("test/*/[0-9]*.png"))) < seen:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() != 0  # it was killed underway
        found = {name: digest for name, digest in tree(out).items() if "/." not in f"/{name}"}
        assert found.items() <= whole.items()
    assert say(run, *words, "--out", out).exit_code == 0
    assert tree(out) == whole
