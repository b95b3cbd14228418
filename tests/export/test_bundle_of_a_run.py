"""The way from a trained run to the metrics of what ships, by the commands that a user types."""

import json

import pytest
from typer.testing import CliRunner

from edge_agent.bundle import open_bundle
from export.__main__ import app
from export.evaluate import evaluate_bundle
from train.data.defects import open_defects, split_json
from train.data.folder import open_dataset
from train.evaluate import evaluate as evaluate_run
from train.run import about, held_out_with_stains

METRICS = ["image_auroc", "pixel_auroc", "aupro", "image_f1_max", "image_aupr", "pixel_aupr", "false_reject_rate"]


def typed(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def shipped(trained_folder, tmp_path_factory):
    """A signed bundle, its public key, and what the command printed."""
    folder = tmp_path_factory.mktemp("shipped")
    assert typed("keygen", "--out", folder / "key")[0] == 0
    code, out, err = typed(
        "bundle",
        trained_folder,
        "--out",
        folder / "bundles" / "line",
        "--sign",
        folder / "key",
        "--version",
        2,
        "--json",
    )
    assert code == 0, err
    return folder / "bundles" / "line", folder / "key.pub", json.loads(out)


def test_the_commands_make_a_bundle_that_the_agent_trusts(shipped):
    folder, public_key, printed = shipped
    bundle = open_bundle(folder, public_key=public_key, not_older_than=2)
    assert printed["digest"] == bundle.digest
    assert printed["signed"] is True
    assert printed["measured"]["map_error"] <= 1e-4
    assert printed["measured"]["verdict_flips"] == 0
    assert printed["nodes"] < 60
    assert bundle.manifest.name == "line"


def test_its_metrics_are_the_runs_to_a_thousandth(shipped, trained_run, line_folder, tmp_path):
    folder, _, _ = shipped
    code, out, err = typed("evaluate", folder, "--data", line_folder, "--out", tmp_path / "m.json", "--json")
    assert code == 0, err
    found = json.loads((tmp_path / "m.json").read_text())
    assert json.loads(out) == found
    expected = evaluate_run(
        trained_run.score_batch,
        open_dataset(line_folder),
        trained_run.preprocessing,
        trained_run.thresholds,
        about(trained_run),
    ).metrics
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], abs=1e-3), name
    assert found["escape_rate"] == pytest.approx(expected["escape_rate"], abs=1e-3)
    for name in ("seed", "config_digest", "data_digest", "threshold", "n_normal", "n_defective", "scoring", "product"):
        assert found[name] == expected[name], name
    assert found["bundle"] == open_bundle(folder).digest
    assert (found["engine"], found["precision"], found["bundle_version"]) == ("onnxruntime", "fp32", 2)
    assert found["versions"]["onnxruntime"]


def test_a_folder_of_good_images_alone_needs_the_runs_held_out_ones(
    shipped, trained_folder, trained_run, line_folder, tmp_path
):
    folder, _, _ = shipped
    flat = line_folder / "train" / "good"
    code, _, err = typed("evaluate", folder, "--data", flat, "--out", tmp_path / "m.json")
    assert code == 2
    assert "holds no test images" in err
    assert not (tmp_path / "m.json").exists()
    metrics = evaluate_bundle(open_bundle(folder), open_dataset(flat), held_out=held_out_with_stains(trained_run))
    assert metrics["image_auroc"] is None
    assert metrics["n_stained_held_out"] > 0


def test_what_a_generator_was_trained_on_is_left_out(shipped, line_folder, tmp_path):
    split = split_json(open_defects(line_folder, defects_per_type=1))
    (tmp_path / "split.json").write_text(json.dumps(split))
    out = tmp_path / "m.json"
    code, _, err = typed("evaluate", shipped[0], "--data", line_folder, "--generator", tmp_path, "--out", out)
    assert code == 0, err
    assert json.loads(out.read_text())["left_out"]["n"] == len(split["categories"])
    assert "test images are left out, for a generator" in err


def test_settings_of_the_scoring_can_be_changed_at_export(trained_folder, tmp_path):
    code, _, err = typed(
        "bundle", trained_folder, "--out", tmp_path / "b", "--set", "scoring=uncertainty", "--set", "dropout_passes=3"
    )
    assert code == 0, err
    assert open_bundle(tmp_path / "b").manifest.score.startswith("AESc uncertainty")
    assert "Next: python -m edge_agent score" in err


def test_bad_input_is_a_sentence_and_exit_code_2(shipped, trained_folder, line_folder, tmp_path):
    folder, public_key, _ = shipped
    out = tmp_path / "out"
    cases = [
        (("bundle", tmp_path, "--out", out), "is not the run folder of a detector: it has no config.yaml"),
        (("bundle", trained_folder, "--out", folder), "exists already. A bundle is never changed or overwritten"),
        (
            ("bundle", trained_folder, "--out", out, "--precision", "int8"),
            "--precision int8 finds its ranges on good training images",
        ),
        (("bundle", trained_folder, "--out", out, "--version", "0"), "--version is 0"),
        (
            ("bundle", trained_folder, "--out", out, "--sign", public_key),
            "is a public key; signing takes the private one",
        ),
        (("bundle", trained_folder, "--out", out, "--set", "filters=3"), "that was fixed when"),
        (("keygen", "--out", public_key), "exists already. A key is never overwritten"),
        (("evaluate", tmp_path, "--data", line_folder, "--out", out), "has no manifest.json"),
        (("evaluate", folder, "--data", tmp_path / "no", "--out", out), "no"),
        (("evaluate", folder, "--data", line_folder, "--out", tmp_path / "no" / "m.json"), "does not exist. Make it"),
    ]
    for arguments, text in cases:
        code, _, err = typed(*arguments)
        assert code == 2, (arguments, err)
        assert text in err, err
        assert "Traceback" not in err
        assert not out.exists()


def test_help_of_every_verb_has_an_example():
    for verb in ("keygen", "bundle", "graphs", "synthesize", "evaluate"):
        code, out, _ = typed(verb, "--help")
        assert code == 0
        assert f"Example: python -m export {verb}" in " ".join(out.split())
