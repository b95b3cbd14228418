"""What a user types, sees and gets back, with a real broker where one is needed."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import tiny_bundle
from line import ROOT, RunningAgent, agent, call, draw_parts, make_line
from mosquitto import Mosquitto, Subscriber, free_port

from edge_agent.__main__ import shown_score
from edge_agent.messages import Event, Health, Result, State

BASE = "faultline/v1/plant/l1/s1/top"


@pytest.mark.broker
def test_run_delivers_one_verdict_per_part_and_says_so(tmp_path, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, parts=12, health_interval_s=0.01, anomaly_maps={"folder": "rejects"})
    (tmp_path / "parts" / "005.png").write_bytes((tmp_path / "parts" / "005.png").read_bytes()[:60])
    done = agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "12 parts: 5 pass, 6 reject, 1 unknown. 12 verdicts delivered, 0 messages left in the outbox." in done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"000\.png  pass     score   0\.600 +[\d.]+ ms", lines[0])
    assert re.fullmatch(r"005\.png  unknown  score +- +[\d.]+ ms  .*005\.png is truncated.*", lines[5])
    assert len(lines) == 12
    subscriber.wait_for(lambda s: len(s.results) == 12 and len(s.of("state")) >= 2)
    results = [Result.model_validate(result) for result in subscriber.results]
    assert [result.sequence for result in results] == list(range(12))
    assert not any(result.historical for result in results)
    assert results[0].model.digest
    rejects = [result.result_id for result in results if result.verdict == "reject"]
    maps = subscriber.of("anomaly_map")
    assert [message.topic for message in maps] == [f"{BASE}/anomaly_map/{id_}" for id_ in rejects]
    assert all(message.payload.startswith(b"\x89PNG") for message in maps)
    assert sorted(path.stem for path in (tmp_path / "rejects").iterdir()) == sorted(rejects)
    states = [State.model_validate(message.json) for message in subscriber.of("state")]
    assert [state.state for state in states] == ["online", "stopped"]
    assert {state.boot for state in states} == {results[0].boot}
    for message in subscriber.of("health"):
        Health.model_validate(message.json)
    late = Subscriber(broker.port, name="late")  # the state is retained, results are not
    late.wait_for(lambda s: len(s.received) >= 1)
    assert [(message.leaf, message.retain, message.json["state"]) for message in late.received] == [
        ("state", True, "stopped")
    ]
    late.close()


@pytest.mark.broker
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_run_speaks_both_versions_of_mqtt_and_prints_json(tmp_path, broker, subscriber, version):
    config = make_line(tmp_path, port=broker.port, parts=4, mqtt={"version": version})
    done = agent("run", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    subscriber.wait_for(lambda s: len(s.results) == 4)
    assert [json.loads(line) for line in done.stdout.splitlines()] == subscriber.results


@pytest.mark.broker
def test_a_kill_lets_the_broker_say_offline_and_a_restart_delivers_the_rest(tmp_path, broker, subscriber):
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}
    config = make_line(tmp_path, port=broker.port, cameras=camera)
    with RunningAgent(config) as process:
        subscriber.wait_for(lambda s: len(s.results) >= 5)
        process.end(signal.SIGKILL)
    subscriber.wait_for(lambda s: s.of("state")[-1].json["state"] == "offline")
    online, offline = (message.json for message in subscriber.of("state"))
    assert online["boot"] == offline["boot"]
    late = Subscriber(broker.port, name="late")  # the will is retained as the birth was, or a dashboard would lie
    late.wait_for(lambda s: len(s.received) >= 1)
    assert (late.received[0].json["state"], late.received[0].retain) == ("offline", True)
    late.close()
    with RunningAgent(config) as process:
        subscriber.wait_for(lambda s: s.results[-1]["boot"] == online["boot"] + 1)
        assert process.end(signal.SIGTERM) == 0, process.log
    subscriber.wait_for(lambda s: s.of("state")[-1].json["state"] == "stopped")


def test_without_a_broker_verdicts_stay_for_the_next_start(tmp_path):
    config = make_line(tmp_path, port=free_port(), parts=5, mqtt={"drain_timeout_s": 0.2})
    done = agent("run", "--config", config)
    assert done.returncode == 1
    assert "0 verdicts delivered, 7 messages left in the outbox." in done.stderr
    assert "They stay there and will be sent at the next start. The broker 127.0.0.1:" in done.stderr
    assert done.stderr.count("can't be reached (Connection refused)") == 2  # the log's one line, and the summary


@pytest.mark.broker
def test_the_next_start_delivers_them_as_historical(tmp_path):
    broker = Mosquitto(tmp_path / "broker")
    config = make_line(tmp_path, port=broker.port, parts=5, mqtt={"drain_timeout_s": 0.2})
    assert agent("run", "--config", config).returncode == 1
    broker.start()
    subscriber = Subscriber(broker.port)
    config.write_text(config.read_text().replace("drain_timeout_s: 0.2", "drain_timeout_s: 30"))
    assert agent("run", "--config", config).returncode == 0
    subscriber.wait_for(lambda s: len(s.results) == 10)
    streams = {True: [], False: []}
    for result in subscriber.results:
        streams[result["historical"]].append((result["boot"], result["sequence"]))
    boot = streams[False][0][0]
    assert streams == {True: [(boot - 1, n) for n in range(5)], False: [(boot, n) for n in range(5)]}
    subscriber.close()
    broker.stop()


@pytest.mark.broker
def test_a_damaged_outbox_is_replaced_with_an_alarm_and_the_line_runs(tmp_path, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, parts=3)
    (tmp_path / "outbox.db").write_bytes(b"damaged" * 500)
    done = agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    subscriber.wait_for(lambda s: len(s.results) == 3 and len(s.of("event")) == 1)
    event = Event.model_validate(subscriber.of("event")[0].json)
    assert (event.event, event.severity) == ("outbox_replaced", "alarm")
    assert (tmp_path / "outbox.db.damaged-1").exists()


def test_a_dry_run_stores_and_publishes_nothing(tmp_path):
    config = make_line(tmp_path, port=free_port(), parts=3)
    before = sorted(tmp_path.rglob("*"))
    done = agent("run", "--config", config, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert "Dry run: nothing was stored or published." in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def wrong_inputs():
    def no_parts(folder, config):
        shutil.rmtree(folder / "parts")

    def empty_parts(folder, config):
        shutil.rmtree(folder / "parts")
        (folder / "parts").mkdir()

    def altered_model(folder, config):
        model = folder / "bundle" / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"x")

    def truncated_golden(folder, config):
        golden = folder / "bundle" / "golden" / "golden.npz"
        golden.write_bytes(golden.read_bytes()[:100])

    def typo(folder, config):
        config.write_text(config.read_text().replace("device:", "devise:"))

    def no_password_file(folder, config):
        config.write_text(config.read_text().replace("mqtt:", "mqtt:\n  username: u\n  password_file: nowhere"))

    def unsigned(folder, config):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        tiny_bundle.write_public_key(folder / "key.pub", Ed25519PrivateKey.generate())
        config.write_text(config.read_text() + "public_key: key.pub\n")

    return [
        (no_parts, r"parts is not a folder\. Give the folder of images that the camera replays"),
        (empty_parts, r"parts holds no images\. Put PNG"),
        (altered_model, r"model\.onnx changed after export"),
        (truncated_golden, r"golden\.npz changed after export"),
        (typo, r"agent\.yaml:\d+: devise is not a setting\. Did you mean device\?"),
        (no_password_file, r"mqtt\.password_file: .*nowhere can't be read"),
        (unsigned, r"bundle is unsigned, but .*key\.pub is set"),
    ]


@pytest.mark.parametrize(("spoil", "expected"), wrong_inputs(), ids=lambda value: getattr(value, "__name__", ""))
def test_wrong_input_is_a_sentence_and_exit_code_2_before_anything_is_written(tmp_path, spoil, expected):
    config = make_line(tmp_path, port=free_port(), parts=2)
    spoil(tmp_path, config)
    before = sorted(tmp_path.rglob("*"))
    done = agent("run", "--config", config)
    assert done.returncode == 2, done.stderr
    assert re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_an_engine_that_disagrees_with_the_golden_set_never_runs(tmp_path):
    config = make_line(tmp_path, port=free_port(), parts=2)
    shutil.rmtree(tmp_path / "bundle")
    tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model(threshold=120.0))
    done = agent("run", "--config", config)
    assert done.returncode == 1
    assert "disagrees with the golden set" in done.stderr
    assert done.stdout == ""


def test_two_agents_cannot_share_an_outbox(tmp_path):
    from edge_agent.outbox import Outbox

    config = make_line(tmp_path, port=free_port(), parts=2)
    outbox = Outbox(tmp_path / "outbox.db", max_rows=100, max_bytes=10**6)
    done = agent("run", "--config", config)
    outbox.close()
    assert done.returncode == 1
    assert "outbox.db is in use by another agent." in done.stderr


def checked(*arguments):
    """Exit code, and subject -> (ok, text)."""
    done = call("check", *arguments, "--json")
    assert "Traceback" not in done.stderr
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {finding["subject"]: (finding["ok"], finding["text"]) for finding in findings}


@pytest.mark.broker
def test_check_finds_everything_in_order_and_changes_nothing(tmp_path, broker):
    config = make_line(tmp_path, port=broker.port)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if "broker" not in path.parts)
    code, found = checked(config)
    assert code == 0
    assert list(found) == ["config", "bundle", "golden set", "camera top", "outbox", "broker"]
    assert all(ok for ok, _ in found.values())
    assert found["camera top"][1] == "gives frames of 16 x 12 pixels"
    assert sorted((path, path.stat().st_mtime_ns) for path in before_paths(tmp_path)) == before


def test_check_says_which_engine_would_serve_and_which_not(tmp_path):
    config = make_line(tmp_path, port=free_port(), engine={"kind": "tensorrt"})
    code, found = checked(config)  # no TensorRT or no GPU here, or no engine file: ONNX Runtime serves
    ok, text = found["engine"]
    assert ok
    assert text.startswith("onnxruntime (float32) serves: engine.kind is tensorrt; onnxruntime (float32) serves ")
    assert found["golden set"][1].startswith("onnxruntime agrees on 16 images")
    assert found["engine tensorrt"][1] in text
    config = make_line(tmp_path, port=free_port(), engine={"kind": "tensorrt", "fallback": False})
    code, found = checked(config)
    assert code == 1
    assert found["golden set"] == (False, found["golden set"][1])
    assert "engine" not in found


def test_auto_serves_with_an_engine_of_this_machine(tmp_path):
    config = make_line(tmp_path, port=free_port(), parts=4, engine={"kind": "auto"})
    done = agent("run", "--config", config, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["pass", "pass", "reject", "reject"]
    assert re.search(r"The engine \w+ \(\w+\) serves: (the fastest on this machine|it is the only one)", done.stderr)


def before_paths(folder):
    return [path for path in folder.rglob("*") if "broker" not in path.parts]


@pytest.mark.broker
def test_check_does_not_disturb_the_running_agent(tmp_path, broker, subscriber):
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.02}}
    config = make_line(tmp_path, port=broker.port, cameras=camera)
    with RunningAgent(config) as process:
        subscriber.wait_for(lambda s: len(s.results) >= 1)
        code, found = checked(config)
        assert code == 0, found
        seen = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > seen + 3)
        assert process.end(signal.SIGINT) == 0
    assert process.log.count("Connected to") == 1
    assert [message.json["state"] for message in subscriber.of("state")] == ["online", "stopped"]


@pytest.mark.broker
def test_check_tells_a_refused_login_from_an_unreachable_broker(tmp_path):
    broker = Mosquitto(tmp_path / "broker", users={"press-7": "right"}).start()
    (tmp_path / "secret").write_text("canary-wrong-5391\n")
    config = make_line(tmp_path, port=broker.port, mqtt={"username": "press-7", "password_file": "secret"})
    code, found = checked(config)
    assert code == 2
    assert found["broker"][0] is False
    assert found["broker"][1].startswith("The broker refuses the login: Not authorized (user press-7). Check mqtt.user")
    assert "canary" not in str(found)
    (tmp_path / "secret").write_text("right\n")
    assert checked(config)[0] == 0
    broker.stop()
    code, found = checked(config)
    assert code == 1
    assert "can't be reached (Connection refused). Check mqtt.host and mqtt.port" in found["broker"][1]


@pytest.mark.broker
def test_a_refused_login_ends_a_finite_run_with_its_reason_at_once(tmp_path):
    broker = Mosquitto(tmp_path / "broker", users={"press-7": "right"}).start()
    (tmp_path / "secret").write_text("wrong")
    login = {"username": "press-7", "password_file": "secret", "drain_timeout_s": 3000.0}
    done = agent("run", "--config", make_line(tmp_path, port=broker.port, parts=3, mqtt=login))
    broker.stop()
    assert done.returncode == 1
    assert "3 parts: 2 pass, 1 reject, 0 unknown. 0 verdicts delivered, 4 messages left in the outbox." in done.stderr
    summary = done.stderr.splitlines()[-1]
    assert summary.startswith(
        "They stay there and will be sent at the next start. The broker refuses the login: Not auth"
    )


def test_check_of_something_that_is_no_broker(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        config = make_line(tmp_path, port=server.getsockname()[1])
        code, found = checked(config)
    assert code == 1
    assert "takes connections but doesn't answer as an MQTT broker" in found["broker"][1]


def test_check_lists_every_problem_not_the_first_alone(tmp_path):
    config = make_line(tmp_path, port=free_port(), outbox={"path": "parts/000.png"})
    (tmp_path / "bundle" / "model.onnx").unlink()
    (tmp_path / "parts" / "000.png").write_bytes(b"nonsense")
    code, found = checked(config)
    assert code == 2
    assert [subject for subject, (ok, _) in found.items() if not ok] == ["bundle", "camera top", "outbox", "broker"]
    assert "model.onnx is missing" in found["bundle"][1]
    assert "The first frame can't be used: " in found["camera top"][1]
    assert "is not an outbox" in found["outbox"][1]


def test_check_of_a_bundle(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model())
    code, found = checked(bundle)
    assert (code, list(found)) == (0, ["bundle", "golden set"])
    assert "onnxruntime agrees on 16 images" in found["golden set"][1]
    (bundle / "extra").write_text("x")
    code, found = checked(bundle)
    assert code == 2
    assert "extra is not listed in manifest.json" in found["bundle"][1]


def test_check_in_words(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model())
    done = call("check", bundle)
    assert done.stdout.splitlines()[0].startswith("ok       bundle: ")
    done = call("check", tmp_path / "nothing.yaml")
    assert done.returncode == 2
    assert done.stdout.startswith("problem  config: ")


def test_score_a_folder_saves_pictures_and_tells_what_could_not_be_judged(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model())
    parts = draw_parts(tmp_path / "parts", tiny_bundle.parts(4))
    done = call("score", bundle, parts, "--save", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["000.png", "pass"],
        ["001.png", "pass"],
        ["002.png", "reject"],
        ["003.png", "reject"],
    ]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [f"00{n}.png.png" for n in range(4)]
    (parts / "001.png").write_bytes(b"nonsense")
    done = call("score", bundle, parts, "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["verdict"] for line in lines] == ["pass", "unknown", "reject", "reject"]
    assert lines[1]["reason"] == "bad_frame"
    assert lines[3]["image_score"] == pytest.approx(1.41)
    assert lines[3]["regions"][0]["peak_at"] == [5, 3]


def test_score_one_file_and_what_it_refuses(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", model=tiny_bundle.tiny_model())
    parts = draw_parts(tmp_path / "parts", tiny_bundle.parts(2))
    done = call("score", bundle, parts / "001.png")
    assert done.returncode == 0
    assert done.stdout.split()[:2] == ["001.png", "reject"]
    original = (parts / "001.png").read_bytes()
    for arguments, expected in (
        (("score", bundle, tmp_path / "nothing"), "is neither a file nor a folder"),
        (("score", tmp_path / "nothing", parts), "nothing is not a folder. Give the folder that `export bundle"),
        (("score", bundle, parts, "--save", parts), "lies in the folder of the images"),
        (("score", bundle, parts, "--save", parts / "maps"), "lies in the folder of the images"),
        (("score", bundle, parts / "001.png", "--save", parts), "lies in the folder of the images"),
    ):
        done = call(*arguments)
        assert done.returncode == 2, arguments
        assert expected in done.stderr
    assert (parts / "001.png").read_bytes() == original
    assert len(list(parts.iterdir())) == 2


def test_record_takes_whole_frames_losslessly_and_overwrites_nothing(tmp_path):
    config = make_line(tmp_path, port=free_port(), parts=5)
    (tmp_path / "parts" / "001.png").write_bytes(b"nonsense")
    done = call("record", "--config", config, "--count", "3", "--out", tmp_path / "good")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 pictures recorded" in done.stdout
    assert "001.png" in done.stderr  # said, and not counted
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == ["000001.png", "000002.png", "000003.png"]
    recorded = cv2.imread(str(tmp_path / "good" / "000002.png"))
    np.testing.assert_array_equal(recorded, cv2.imread(str(tmp_path / "parts" / "002.png")))
    done = call("record", "--config", config, "--count", "3", "--out", tmp_path / "good")
    assert done.returncode == 2
    assert "good exists and is not an empty folder; nothing is overwritten." in done.stderr
    done = call("record", "--camera", tmp_path / "parts", "--count", "9", "--out", tmp_path / "more")
    assert done.returncode == 1
    assert "4 of 9 pictures recorded" in done.stdout
    assert "The camera ended before." in done.stderr


@pytest.mark.parametrize("verb", ["run", "score", "record", "check"])
def test_each_verb_has_an_example_in_its_help(verb):
    done = call(verb, "--help")
    assert done.returncode == 0
    assert f"python -m edge_agent {verb}" in done.stdout


def test_unknown_options_are_wrong_input():
    assert call("run", "--colour", "red").returncode == 2


def test_the_agent_never_loads_jax_or_torch():
    heavy = "('jax', 'flax', 'torch', 'onnx', 'train', 'export')"
    code = f"import sys, edge_agent.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.broker
def test_a_closed_console_does_not_stop_the_line(tmp_path, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, parts=30)
    command = f"{sys.executable} -m edge_agent run --config {config} | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("000.png  pass")
    assert "Traceback" not in done.stderr
    subscriber.wait_for(lambda s: len(s.results) == 30)


def test_a_score_is_shown_on_its_own_side_of_the_threshold():
    assert shown_score(0.6, 1.0) == "  0.600"
    assert shown_score(1.0004, 1.0) == " 1.0004"
    assert float(shown_score(np.nextafter(2.5, 3), 2.5)) > 2.5
    assert float(shown_score(2.5, 2.5)) == 2.5  # at the threshold a part passes
