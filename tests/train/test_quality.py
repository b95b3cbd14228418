"""Comparing folders: figures with their floor, the names they go by, and what is said of folders that don't do."""

import json

import cv2
import numpy as np
import pytest
import typer.testing
from weight_files import drawn_state, write_safetensors

from train.__main__ import app
from train.backbones.errors import WeightsError
from train.backbones.inception import INCEPTION_V3, INCEPTION_V3_FID, inception_of
from train.backbones.mobilenet import MOBILENET_V1_025
from train.backbones.weight_file import WeightFile
from train.quality.compare import compare, distances
from train.quality.networks import feature_network
from train.quality.wording import quality_section, sentences

SIDE = 32


def textures(n, seed, *, level=120.0, grain=20.0):
    """Smooth random images of one statistic."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((n, SIDE, SIDE, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in noise])
    return np.clip(level + grain * smooth / smooth.std(), 0, 255).astype(np.uint8)


def write(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
    return folder


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, ["compare", *map(str, arguments)])


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.fixture
def folders(tmp_path):
    real, generated = tmp_path / "real", tmp_path / "generated" / "test"
    write(real / "dent", textures(12, 0))
    write(real / "scratch", textures(12, 1, level=60))
    write(real / "stain", textures(2, 2))
    write(generated / "dent", textures(10, 3, level=150))
    write(generated / "scratch", textures(10, 4, level=90))
    write(tmp_path / "generated" / "ground_truth" / "dent", textures(10, 5))
    return real, tmp_path / "generated"


def test_the_command_gives_figures_floors_and_what_it_left_out(folders):
    result = run(*folders, "--features", "mini", "--splits", 3, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["frechet_name"] == "Fréchet distance on mini stage3 features"
    assert found["kernel_name"] == "kernel distance on mini stage3 features"
    assert found["perceptual_name"].endswith("(not LPIPS)")
    assert found["size"] == SIDE
    assert (found["together"]["n_real"], found["together"]["n_generated"]) == (24, 20)
    assert sorted(found["by_class"]) == sorted(found["diversity"]) == ["dent", "scratch"]
    assert found["by_class"]["dent"]["n_generated"] == 10  # the masks are no images
    assert found["together"]["frechet"] > found["together"]["frechet_floor"][0] > 0
    (note,) = found["notes"]
    assert "stain/" in note and "left out" in note
    plain = run(*folders, "--features", "mini", "--splits", 3)
    assert "This is no FID" in plain.stdout and "Its floor, between random halves" in plain.stdout


def test_sets_of_one_kind_are_at_the_floor_and_others_above_it():
    network = feature_network("mini")
    real, same = (network.pooled(textures(80, seed)) for seed in (0, 1))
    other = network.pooled(textures(80, 2, grain=30))
    near, far = distances(real, same), distances(real, other)
    assert near.frechet_floor == far.frechet_floor
    floor = near.frechet_floor
    assert abs(near.frechet_matched.mean - floor.mean) < 0.5 * floor.mean
    assert far.frechet_matched.mean > 2 * floor.mean
    assert abs(near.kernel) < 0.1 * far.kernel
    assert near.frechet < floor.mean  # twice as many images: why only `frechet_matched` is compared with the floor


def test_copies_of_one_real_image_are_near_and_not_diverse():
    network, real = feature_network("mini"), {"dent": textures(12, 0)}
    repeated = {"dent": np.repeat(real["dent"][:1], 6, axis=0)}
    found = compare(real, repeated, network, splits=2)
    assert found.diversity["dent"].generated.mean == pytest.approx(0, abs=1e-5)
    assert found.diversity["dent"].clusters == 1
    assert found.diversity["dent"].real.mean > 0.01
    assert found.by_class == {}  # of one class, the figures of all are its own
    few = compare(real, {"dent": real["dent"][:3]}, network, splits=2)
    assert any("too few generated images" in line for line in sentences(few))
    assert quality_section(few).notes == tuple(sentences(few))


def test_a_file_says_itself_which_network_it_is_of(tmp_path):
    path = write_safetensors(tmp_path / "any_name.safetensors", drawn_state(MOBILENET_V1_025))
    network = feature_network(str(path))
    assert network.frechet == "Fréchet distance on mobilenet_v1_025 conv_pw_11 features"
    assert network.weights == "any_name.safetensors" and not network.is_fid


@pytest.mark.parametrize(("classes", "expected"), [(1008, INCEPTION_V3_FID), (1000, INCEPTION_V3), (1001, None)])
def test_only_the_fids_own_inception_gives_a_fid(tmp_path, classes, expected):
    file = WeightFile(tmp_path / "x.pth", {"fc.weight": (classes, 2048)}, lambda key: np.zeros(1), {})
    if expected is None:
        with pytest.raises(WeightsError, match=r"fc.weight of 1001 classes.*1008.*1000"):
            inception_of(file)
    else:
        assert inception_of(file) is expected


def test_what_is_said_of_folders_that_cannot_be_compared(tmp_path, folders):
    real, generated = folders
    empty, flat = tmp_path / "empty", write(tmp_path / "flat", textures(1, 0))
    empty.mkdir()
    features = ("--features", "mini")
    assert "does not exist" in refused(tmp_path / "rael", generated, *features)
    assert "Did you mean" in refused(tmp_path / "rael", generated, *features)
    assert "holds no image" in refused(real, empty, *features)
    assert "can't be compared with itself" in refused(real, real, *features)
    assert "holds one image" in refused(real, flat, *features)
    assert "neither a file nor a network" in refused(real, generated, "--features", "resnet81")
    assert "Give at least 16" in refused(real, generated, *features, "--size", 3)
    assert "is not the run folder of a generator" in refused(real, generated, *features, "--report", tmp_path)
    assert "Give at least 1" in refused(real, generated, *features, "--splits", 0)
    write(tmp_path / "others" / "fray", textures(2, 0))
    write(tmp_path / "others" / "hole", textures(2, 0))
    assert "no class is in both" in refused(real, tmp_path / "others", *features)
    (tmp_path / "notes.safetensors").write_bytes(b"no weights")
    assert "can't be read as safetensors" in refused(real, generated, "--features", tmp_path / "notes.safetensors")
