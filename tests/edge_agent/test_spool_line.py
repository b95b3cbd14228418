"""The spool of a running agent: what training reads of it, what a SIGKILL leaves, and a full disk beside the line."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from line import RunningAgent, agent, draw_parts, make_line
from mosquitto import Mosquitto, Subscriber
from spooling import assert_whole, read_rgb

ENDLESS = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.005}}
KEEP_ALL = {"folder": "spool", "pass_share": 1.0, "per_minute": 100_000, "min_free_bytes": 0}
SEED = 20261121


def test_a_line_keeps_its_rejects_and_a_sample_of_its_passes(tmp_path, broker, subscriber):
    wanted = {**KEEP_ALL, "pass_share": 0.4, "band": {"low": 0.9, "high": 1.1}}
    config = make_line(tmp_path, port=broker.port, parts=40, spool=wanted)
    done = agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    kept = assert_whole(tmp_path / "spool")
    subscriber.wait_for(lambda s: len(s.results) == 40)
    by_id = {result["result_id"]: result for result in subscriber.results}
    source = tiny_bundle.parts(40)
    kinds: dict[str, set[str]] = {"good": set(), "bad": set(), "uncertain": set()}
    for path, line in kept.items():
        result, kind = by_id[line["result_id"]], path.split("/")[2]
        assert (line["verdict"], line["image_score"], line["part"]) == (
            result["verdict"], result["image_score"], result["part"],
        )  # fmt: skip
        np.testing.assert_array_equal(read_rgb(tmp_path / "spool" / path), source[result["sequence"]])
        kinds[kind].add(line["result_id"])
    sure = {"reject": set(), "pass": set()}
    for result_id, result in by_id.items():
        if not 0.9 <= result["image_score"] <= 1.1:
            sure[result["verdict"]].add(result_id)
    assert kinds["bad"] == sure["reject"]
    assert kinds["good"] < sure["pass"]
    assert kinds["good"]
    assert kinds["uncertain"] == by_id.keys() - sure["reject"] - sure["pass"]


def test_training_reads_the_spool_as_it_lies(tmp_path, broker):
    folder = pytest.importorskip("train.data.folder", reason="training needs Python 3.11 and JAX")
    from train.data.check import check

    config = make_line(tmp_path, port=broker.port, parts=40, spool=KEEP_ALL)
    done = agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    place = tmp_path / "spool" / "dots" / "top"
    dataset = folder.open_dataset(place)
    assert dataset.layout == "good_bad"
    read = {sample.path: sample.label for sample in (*dataset.train, *dataset.test)}
    assert {path for path, label in read.items() if label == "good"} == set(place.glob("good/*.png"))
    assert {path for path, label in read.items() if label == "bad"} == set(place.glob("bad/*.png"))
    assert not [path for path in read if "uncertain" in path.parts]
    assert dataset.train
    assert "uncertain/ not used" in dataset.skipped[0].message
    assert not [finding for finding in check(dataset) if finding.severity == "error"]


@pytest.mark.broker
def test_a_kill_leaves_whole_images_with_their_lines_and_nothing_twice(tmp_path, broker):
    quota = {"max_files": 30}
    config = make_line(
        tmp_path, port=broker.port, parts=40, cameras=ENDLESS,
        spool={**KEEP_ALL, "good": quota, "bad": quota, "uncertain": quota},
    )  # fmt: skip
    moments, spool = random.Random(SEED), tmp_path / "spool"
    ever: dict[str, float] = {}
    for _ in range(3):
        with RunningAgent(config) as running:
            running.wait_given(20)
            time.sleep(moments.uniform(0.0, 0.5))
            running.end(signal.SIGKILL)
        for path, line in assert_whole(spool).items():
            assert len(list(spool.glob("*/*/*/*.png"))) <= 3 * 30
            assert ever.setdefault(path, line["image_score"]) == line["image_score"]
    config.write_text(config.read_text().replace("loop: true", "loop: 1"))
    assert agent("run", "--config", config).returncode == 0
    assert not [path for path in spool.rglob("*") if path.name.startswith(".")]
    assert_whole(spool)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.broker
def test_a_full_disk_stops_the_spool_and_not_the_line(tmp_path, broker: Mosquitto, subscriber: Subscriber, small_disk):
    (small_disk / "filler").write_bytes(bytes(1024**2 - 64 * 1024))
    config = make_line(
        tmp_path, port=broker.port, parts=40, cameras=ENDLESS, spool={**KEEP_ALL, "folder": str(small_disk / "spool")},
        health_interval_s=0.2,
    )  # fmt: skip

    def dropped(s: Subscriber) -> int:
        return max((message.json["spool_dropped"] for message in s.of("health")), default=0)

    with RunningAgent(config) as running:
        subscriber.wait_for(lambda s: dropped(s) >= 50)
        subscriber.wait_for(lambda s: [m for m in s.of("event") if m.json["event"] == "spool_stopped"])
        running.wait_given(50)  # the line goes on
        assert {result["verdict"] for result in running.given} == {"pass", "reject"}
        log = running.log
        running.end()
    assert log.count("can't keep frames") == 1
    events = [message.json for message in subscriber.of("event")]
    assert [event["event"] for event in events] == ["spool_stopped"]
    assert "No space left on device" in events[0]["message"]
    assert assert_whole(small_disk / "spool")


@pytest.mark.broker
def test_with_several_cameras_each_view_lies_under_its_camera(tmp_path, broker, subscriber):
    bright = tiny_bundle.parts(4)
    bright[:, 3, 5] = 130
    dark = tiny_bundle.parts(4, seed=1)
    dark[:, 3, 5] = 60
    cameras = {name: {"kind": "folder", "path": name} for name in ("top", "side")}
    config = make_line(tmp_path, port=broker.port, spool=KEEP_ALL, cameras=cameras)
    draw_parts(tmp_path / "top", bright)
    draw_parts(tmp_path / "side", dark)
    assert agent("run", "--config", config).returncode == 0
    subscriber.wait_for(lambda s: len(s.results) == 4)
    assert {result["verdict"] for result in subscriber.results} == {"reject"}  # of the parts
    kept = assert_whole(tmp_path / "spool")
    by_sequence = {result["result_id"]: result["sequence"] for result in subscriber.results}
    assert {path.rsplit("/", 1)[0] for path in kept} == {"dots/top/bad", "dots/side/good"}
    for path, line in kept.items():
        source = bright if line["camera"] == "top" else dark
        np.testing.assert_array_equal(read_rgb(tmp_path / "spool" / path), source[by_sequence[line["result_id"]]])
    assert len(kept) == 8
