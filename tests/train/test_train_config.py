"""A config answers back: file, line, what was found, the nearest right setting."""

import pytest
import yaml

from train.config import ConfigError, config_digest, configs_folder, dump_config, find_config, load_config
from train.detectors import DETECTORS
from train.detectors.aesc.config import AEScConfig


def refused(path, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, AEScConfig, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nfilterz: 4\n", "c.yaml:2: filterz is not a setting. Did you mean filters?"),
        ("seed: 1\n\nepochs: many\n", "c.yaml:3: epochs is 'many'. Input should be a valid integer"),
        ("batch_size: 0\n", "c.yaml:1: batch_size is 0. Input should be greater than or equal to 1."),
        ("seed: 1\n  epochs: 3\n", "c.yaml:2 is not YAML"),
        ("seed: [1\n", "c.yaml:2 is not YAML"),
        ("- seed\n", "holds a list, not settings"),
        ("just words\n", "holds a str, not settings"),
        ("crop: [0, 0, 0, 5]\n", "c.yaml:1: crop is [0, 0, 0, 5]. crop is x, y, width, height in pixels"),
    ],
)
def test_a_wrong_file_is_answered_with_its_line(tmp_path, text, sentence):
    (tmp_path / "c.yaml").write_text(text)
    assert sentence in refused(tmp_path / "c.yaml")


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("sead: 1\nepochs: 0\ncolor: blue\n")
    assert len(refused(tmp_path / "c.yaml").splitlines()) == 3


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00seed")
    assert "c.yaml can't be read" in refused(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("epochs", "--set epochs: write it as key=value"),
        ("epoch=3", "--set epoch is not a setting. Did you mean epochs?"),
        ("epochs=few", "--set epochs is 'few'. Input should be a valid integer"),
        ("epochs=[1", "--set epochs=[1: the value is not YAML"),
    ],
)
def test_wrong_overrides_are_named_as_such(tmp_path, override, sentence):
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    assert sentence in refused(tmp_path / "c.yaml", override)


def test_overrides_win_and_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert load_config(tmp_path / "c.yaml", AEScConfig) == AEScConfig()
    assert load_config(tmp_path / "c.yaml", AEScConfig, ["seed=7", "stain_blur=0.1"]).seed == 7


def test_config_names_are_found_and_corrected(tmp_path):
    assert find_config("aesc", "paper") == configs_folder() / "aesc" / "paper.yaml"
    with pytest.raises(ConfigError, match="aesc has no such config. Did you mean paper"):
        find_config("aesc", "papper")
    with pytest.raises(ConfigError, match="there is no such config file"):
        find_config("aesc", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("system", "path"),
    [(name, path) for name in DETECTORS for path in sorted((configs_folder() / name).glob("*.yaml"))],
    ids=str,
)
def test_every_shipped_config_is_valid_and_keeps_what_it_says(system, path):
    config = load_config(path, DETECTORS[system].schema).model_dump(mode="json")
    written = yaml.safe_load(path.read_text())
    assert written
    assert {key: config[key] for key in written} == written


def test_the_papers_recipe_is_the_sheets():
    config = load_config(find_config("aesc", "paper"), AEScConfig)
    recipe = {
        "learning_rate": 0.01, "batch_size": 16, "epochs": 250, "steps_per_epoch": 125, "validation_samples": 500,
        "validation_fraction": 0.2, "plateau_factor": 0.5, "plateau_patience": 30, "plateau_min_delta": 1.0,
        "schedule": "plateau", "noise": "stain", "image_size": 256, "filters": 16, "norm_momentum": 0.99,
        "stain_smallest": 0.01, "stain_largest": 0.12, "stain_darkest": 10, "stain_brightest": 220,
        "stain_irregularity": 0.1, "stain_blur": 0.0, "dropout_passes": 30, "dropout_rates": "seed", "quantise": False,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in recipe} == recipe


def test_a_dumped_config_is_the_same_config(tmp_path):
    config = AEScConfig(seed=3, crop=(1, 2, 3, 4), dropout_rates=(0, 0, 0, 0, 0.1, 0.2))
    (tmp_path / "c.yaml").write_text(dump_config(config, ["made: by a test"]))
    again = load_config(tmp_path / "c.yaml", AEScConfig)
    assert again == config
    assert config_digest(again) == config_digest(config) != config_digest(AEScConfig())
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["seed"] == 3
