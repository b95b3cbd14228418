"""The drift alarm on pictures: what is said, how often, and what a restart remembers."""

import json

import cv2
import numpy as np
import pytest

from edge_agent.drift.settings import DriftConfig
from edge_agent.drift.statistics import WATCHED, look_at
from edge_agent.drift.watch import KEPT_REFERENCES, Drift, Line

TOP = Line("top", "dots", "d" * 64, None)
PARTS = 60  # of the reference


class Told(list):
    """Events, by name and severity."""

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(name, severity) for name, severity, _ in self]


def picture(number: int, *, gain: float = 1.0, tint: float = 1.0, blur: float = 0.0) -> np.ndarray:
    """uint8 [48, 64, 3]: the same part each time, a little brighter or darker, with noise of its own."""
    random = np.random.default_rng(number)
    scene = np.random.default_rng(0).integers(60, 180, (48, 64, 3)).astype(float)
    image = scene * random.normal(1.0, 0.01) * gain
    image[..., 0] *= tint
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    return np.clip(np.rint(image + random.normal(0.0, 2.0, image.shape)), 0, 255).astype(np.uint8)


def score_of(number: int) -> float:
    return float(np.random.default_rng(number + 10**6).normal(0.7, 0.05))


def feed(drift: Drift, numbers: range, *, line: Line = TOP, lift: float = 0.0, **changes: float) -> None:
    for number in numbers:
        score = score_of(number) + lift
        drift.watch(line, "pass" if score <= 1.0 else "reject", picture(number, **changes), score)


@pytest.fixture
def config(tmp_path):
    return DriftConfig(reference_parts=PARTS, file=tmp_path / "state" / "drift.json")


@pytest.fixture
def told():
    return Told()


def test_what_a_frame_looks_like_in_numbers():
    image = np.zeros((300, 400, 3), np.uint8)
    image[:] = (99, 49, 24)
    values = dict(zip([watched.name for watched in WATCHED], look_at(image, 0.5), strict=True))
    assert values == pytest.approx(
        {
            "brightness": np.log(172 / 3 + 1), "red": np.log(2.0), "blue": np.log(0.5), "contrast": 0.0,
            "sharpness": 0.0, "score": 0.5,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gain": 1.05}, "brightness 4.8 % up"),
        ({"gain": 0.95}, "brightness 4.9 % down"),
        ({"tint": 0.9}, "red "),
        ({"blur": 0.8}, "contrast "),
    ],
)
def test_a_change_is_said_once_with_what_and_how_much_and_is_over_once(config, told, changes, said):
    drift = Drift(config, told.append)
    feed(drift, range(400))
    assert told == []
    assert drift.health()[0].state == "steady"
    feed(drift, range(400, 700), **changes)
    assert told.names == [("drift", "warning")]
    assert said.split()[0] in told[0][2]
    if said.endswith(("up", "down")):
        changed = float(told[0][2].split("brightness ")[1].split()[0])
        assert changed == pytest.approx(5.0, abs=1.5)
        assert said.split()[-1] in told[0][2]
    assert "top (dots)" in told[0][2]
    health = drift.health()[0]
    assert health.state == "drifting"
    assert said.split()[0] in health.drifted
    feed(drift, range(700, 1700))
    assert told.names == [("drift", "warning"), ("drift_over", "info")]
    assert drift.health()[0].state == "steady"


def test_rising_scores_are_an_alarm_and_make_one_of_a_warning(config, told):
    drift = Drift(config, told.append)
    feed(drift, range(200))
    feed(drift, range(200, 600), gain=1.05)
    assert told.names == [("drift", "warning")]
    feed(drift, range(600, 1200), gain=1.05, lift=0.1)
    assert told.names == [("drift", "warning"), ("drift", "alarm")]
    assert float(told[1][2].split("score ")[1].split()[0]) == pytest.approx(0.1, abs=0.03)
    assert "brightness" in told[1][2]  # what is wrong, all of it


def test_defects_are_no_drift(config, told):
    drift = Drift(config, told.append)
    random = np.random.default_rng(1)
    for number in range(2000):
        image, score = picture(number), score_of(number)
        if number > PARTS and random.random() < 0.1:
            image[10:20, 10:20], score = 255, 3.0
        drift.watch(TOP, "pass" if score <= 1.0 else "reject", image, score)
    assert told == []


def test_what_could_not_be_judged_says_nothing(config, told):
    drift = Drift(config, told.append)
    for _ in range(3 * PARTS):
        drift.watch(TOP, "unknown", picture(0), None)
        drift.watch(TOP, "unknown", None, None)
    assert drift.health() == ()
    feed(drift, range(PARTS))
    for _ in range(200):
        drift.watch(TOP, "unknown", np.zeros((48, 64, 3), np.uint8), None)
    assert told == []


def test_a_restart_measures_against_the_same_parts_as_before(config, told):
    feed(Drift(config), range(PARTS))
    drift = Drift(config, told.append)  # the lamp has aged while the agent was off
    feed(drift, range(100, 160), gain=0.93)
    assert told.names == [("drift", "warning")]
    assert drift.health()[0].reference_parts == PARTS


def test_another_model_crop_or_camera_has_a_reference_of_its_own(config, told):
    drift = Drift(config, told.append)
    feed(drift, range(PARTS))
    for line in (TOP._replace(digest="e" * 64), TOP._replace(crop=(0, 0, 9, 9)), TOP._replace(camera="side")):
        feed(drift, range(PARTS - 1), line=line, gain=1.3)
        assert drift.health()[-1].state == "learning"
        assert drift.health()[-1].reference_parts == PARTS - 1
    feed(drift, range(PARTS))  # back to the first model: its reference is known
    assert {each.camera: each.state for each in drift.health()} == {"side": "learning", "top": "steady"}
    assert told == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"k": 1}', '{"k": {"statistics": []}}', "\0\0\0", '{"k": {"statistics": null}}']
)
def test_a_damaged_file_is_learned_anew(config, told, content):
    config.file.parent.mkdir()
    config.file.write_text(content)
    drift = Drift(config, told.append)
    feed(drift, range(PARTS))
    assert drift.health()[0].state == "steady"
    assert len(json.loads(config.file.read_text())) == 1


@pytest.mark.parametrize("wrong", [{"mean": [1.0]}, {"spread": [-1.0] * 6}, {"parts": 0}, {"mean": ["x"] * 6}])
def test_a_reference_that_makes_no_sense_is_not_used(config, wrong):
    feed(Drift(config), range(PARTS))
    kept = json.loads(config.file.read_text())
    kept[TOP.key].update(wrong)
    config.file.write_text(json.dumps(kept))
    drift = Drift(config)
    feed(drift, range(5))
    assert drift.health()[0].state == "learning"


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, told):
    (tmp_path / "file").write_text("")
    drift = Drift(DriftConfig(reference_parts=PARTS, file=tmp_path / "file" / "drift.json"), told.append)
    feed(drift, range(PARTS))
    assert drift.health()[0].state == "steady"


def test_references_do_not_pile_up(config):
    drift = Drift(config)
    for number in range(KEPT_REFERENCES + 3):
        feed(drift, range(PARTS), line=TOP._replace(digest=f"{number:064}"))
    kept = json.loads(config.file.read_text())
    assert len(kept) == KEPT_REFERENCES
    assert len(drift.health()) == 1
    assert list(kept)[-1] == TOP._replace(digest=f"{KEPT_REFERENCES + 2:064}").key


def test_scores_that_never_vary_are_no_reason_for_warnings(config, told):
    drift = Drift(config, told.append)
    flat = np.full((48, 64, 3), 80, np.uint8)
    for _ in range(3 * PARTS):
        drift.watch(TOP, "pass", flat, 0.5)
    assert told == []
    assert drift.health()[0].state == "steady"
