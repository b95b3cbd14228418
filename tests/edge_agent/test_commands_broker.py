"""Commands through a real broker to a real agent: effects, answers, refusals."""

import json
import os
import shutil
import signal
import subprocess

import cv2
import numpy as np
import pytest
import tiny_bundle
from commander import ALLOWED, CAMERA, TOPIC, Commander, commander, line_with_commands, request, states
from line import ROOT, RunningAgent, make_line

pytestmark = pytest.mark.broker
__all__ = ["commander"]


def audited(subscriber):
    return [message.json["command"] for message in subscriber.of("event") if message.json["event"] == "command"]


def test_each_verb_has_its_effect_and_its_answers(tmp_path, broker, subscriber, commander):
    config = line_with_commands(tmp_path, broker)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)

        set_to = commander.send(request("set_threshold", arguments={"threshold": 1.1}))
        assert (set_to["status"], set_to["threshold_before"], set_to["threshold"]) == ("done", 1.0, 1.1)
        subscriber.wait_for(lambda s: s.results[-1]["threshold"] == 1.1)
        thresholds = [result["threshold"] for result in subscriber.results]
        assert thresholds == sorted(thresholds)  # one switch, between two parts
        subscriber.wait_for(lambda s: states(s)[-1]["threshold"] == 1.1)
        back = commander.send(request("set_threshold", arguments={"undo": True}))
        assert (back["threshold_before"], back["threshold"]) == (1.1, 1.0)

        assert commander.send("pause")["status"] == "done"
        at = len(subscriber.received)
        subscriber.wait_for(lambda s: len(s.received) > at + 8)
        since = [message.json for message in subscriber.received[at:] if message.leaf == "result"]
        assert {(result["verdict"], result["reason"]) for result in since} == {("unknown", "paused")}
        assert states(subscriber)[-1]["paused"] is True
        assert commander.send("resume")["status"] == "done"
        subscriber.wait_for(lambda s: s.results[-1]["verdict"] != "unknown")

        shown = commander.send("snapshot")
        assert shown["status"] == "done", shown
        [frame] = subscriber.of("frame")
        assert frame.topic == f"{TOPIC}/frame/{shown['result_id']}"
        subscriber.wait_for(lambda s: any(result["result_id"] == shown["result_id"] for result in s.results))
        part = next(result["part"] for result in subscriber.results if result["result_id"] == shown["result_id"])
        picture = cv2.imdecode(np.frombuffer(frame.payload, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(picture, cv2.imread(str(tmp_path / "parts" / part)))

        tested = commander.send("self_test")
        assert tested["status"] == "done", tested
        assert tested["golden"]["n"] == len(tiny_bundle.parts())
        assert tested["golden"]["verdict_flips"] == 0
        assert "onnxruntime (float32) agrees with the golden set" in tested["detail"]

        for each in (set_to, back, shown, tested):
            assert [answer["status"] for answer in commander.answers(each["command_id"])] == ["accepted", "done"]
        assert agent.end() == 0, agent.log
    commands = ["set_threshold", "set_threshold", "pause", "resume", "snapshot", "self_test"]
    assert [each["command"] for each in audited(subscriber)] == commands
    logged = [json.loads(line) for line in (tmp_path / "commands.log").read_text().splitlines()]
    assert [each["command"] for each in logged] == commands
    sequences = [result["sequence"] for result in subscriber.results]
    assert sequences == list(range(len(sequences)))  # no part was lost to any of it


def test_verdicts_under_the_old_orders_come_before_the_ack(tmp_path, broker, subscriber, commander):
    config = line_with_commands(tmp_path, broker, cameras={"top": {**CAMERA["top"], "interval_s": 0.0}})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 50)
        for verb, expected in [("pause", {"unknown"}), ("resume", {"pass", "reject"}), ("pause", {"unknown"})]:
            command_id = commander.send(verb)["command_id"]
            subscriber.wait_for(lambda s: s.received[-1].leaf == "result")
            order = [
                message.json
                for message in subscriber.received
                if message.leaf == "result" or (message.leaf == "ack" and message.json["command_id"] == command_id)
            ]
            at = next(i for i, each in enumerate(order) if each.get("status") == "done")
            after = [each for each in order[at + 1 :] if not each["historical"]]
            assert {each["verdict"] for each in after} <= expected
        assert agent.end() == 0


def test_what_must_have_no_effect_has_none_and_says_why(tmp_path, broker, subscriber, commander):
    commander.publish(request("pause", command_id="retained-before"), retain=True)
    config = line_with_commands(tmp_path, broker)
    refused = {
        "expired": request("pause", valid_s=-1.0),
        "expires_too_late": request("pause", valid_s=3600.0),
        "unknown_issuer": request("pause", issued_by="intruder"),
        "malformed": request("pause", arguments={"password": "hunter2-canary"}),
        "unknown_command": request("hunter2-canary"),
        "unknown_bundle": request("reload_model", arguments={"path": "hunter2-canary"}),
        "out_of_range": request("set_threshold", arguments={"threshold": 50.0}),
        "step_too_large": request("set_threshold", arguments={"threshold": 1.2}),
        "nothing_to_undo": request("set_threshold", arguments={"undo": True}),
    }
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: any(each["command_id"] == "retained-before" for each in audited(s)))
        for reason, sent in refused.items():
            answer = commander.send(sent)
            assert (answer["status"], answer["reason"]) == ("rejected", reason), answer
        assert commander.send(request("pause"), topic=f"{TOPIC}/cmd/pause")["reason"] == "wrong_topic"
        commander.publish(b"x" * 5000)
        commander.publish(b"\xff\x00")
        subscriber.wait_for(lambda s: len(audited(s)) >= len(refused) + 4)
        assert [each["reason"] for each in audited(subscriber)][-2:] == ["oversized", "malformed"]
        assert commander.answers("retained-before")[0]["reason"] == "retained"
        assert all(result["reason"] is None and result["threshold"] == 1.0 for result in subscriber.results)
        assert {state["paused"] for state in states(subscriber)} == {False}
        assert agent.end() == 0
        everything = b"".join(message.payload for message in subscriber.received if message.leaf != "cmd")
        assert b"hunter2" not in everything + agent.log.encode() + (tmp_path / "commands.log").read_bytes()


def test_another_crop_holds_from_the_next_part_on_and_over_a_kill(tmp_path, broker, subscriber, commander):
    """Each part has one bright dot in column 5; what lies left of the crop is not seen."""
    config = line_with_commands(tmp_path, broker, commands={**ALLOWED, "roi": {"max_shift_px": 10, "min_scale": 0.5}})
    box = {"x": 6, "y": 0, "width": 10, "height": 12}
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: {result["verdict"] for result in s.results} == {"pass", "reject"})
        answer = commander.send(request("set_roi", arguments=box))
        assert (answer["status"], answer["roi"], answer["roi_before"]) == ("done", [6, 0, 10, 12], None)
        subscriber.wait_for(lambda s: states(s)[-1]["rois"] == {"top": [6, 0, 10, 12]})
        agent.wait_given(25)  # all that were taken before are out
        assert {each["verdict"] for each in agent.given[-10:]} == {"pass"}
        agent.end(signal.SIGKILL)
    with RunningAgent(config) as agent:
        agent.wait_given(10)
        assert {each["verdict"] for each in agent.given} == {"pass"}
        assert commander.send(request("set_roi", arguments={"undo": True}))["roi"] is None
        agent.wait_for(lambda agent: agent.given[-1]["verdict"] == "reject")
        assert agent.end() == 0


def test_a_station_that_nobody_switched_commands_on_for_says_so(tmp_path, broker, subscriber, commander):
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)
        assert commander.send("pause")["reason"] == "switched_off"
        assert agent.end() == 0
    assert all(result["reason"] is None for result in subscriber.results)


def test_mqtt_5_gives_correlation_back_and_answers_nowhere_else(tmp_path, broker, subscriber):
    commander = Commander(broker, subscriber, version="5")
    config = line_with_commands(tmp_path, broker, mqtt={"version": "5"})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)
        five = Commander(broker, subscriber, version="5")
        heard = []
        five._client.on_message = lambda client, userdata, message: heard.append(message)
        five._client.subscribe(f"{TOPIC}/ack/#", qos=1)
        sent = request("pause")
        commander.send(sent, CorrelationData=b"c-17", ResponseTopic=f"{TOPIC}/ack/engineer")
        subscriber.wait_for(lambda s: len([m for m in s.of("ack") if m.topic.endswith("/engineer")]) == 2)
        subscriber.wait_for(lambda s: len(heard) == 4)
        assert {message.properties.CorrelationData for message in heard} == {b"c-17"}
        assert {message.properties.ContentType for message in heard} == {"application/json"}
        for elsewhere in (f"{TOPIC}/result", "faultline/v1/plant/l1/s1/other/ack/x", f"{TOPIC}/ack", "gate/open"):
            assert commander.send("resume", ResponseTopic=elsewhere)["status"] == "done"
        assert commander.send(request("pause"), retain=True)["reason"] == "retained"  # seen at once
        commander.publish(b"", retain=True)
        assert agent.end() == 0
        five.close()
    commander.close()
    assert {m.topic for m in subscriber.received if b'"command_id":"' in m.payload and m.leaf != "cmd"} == {
        f"{TOPIC}/ack",
        f"{TOPIC}/ack/engineer",
        f"{TOPIC}/event",
    }


def test_the_default_answer_to_a_clock_that_runs_free_is_no(tmp_path, broker, subscriber, commander):
    from edge_agent import clock

    commands = {**ALLOWED, "allow_free_running_clock": False}
    config = line_with_commands(tmp_path, broker, commands=commands)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)
        answer = commander.send("resume")
        agent.end()
    expected = ("done", None) if clock.time_sync() == "ok" else ("rejected", "clock_free_running")
    assert (answer["status"], answer["reason"]) == expected


def test_the_documented_examples_work_when_pasted(tmp_path, broker, subscriber):
    text = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    script = text.split("```sh\n", 1)[1].split("```", 1)[0]
    folder = tmp_path / "bin"  # this broker has a port of its own, and that is all the difference
    folder.mkdir()
    for name in ("mosquitto_pub", "mosquitto_sub"):
        (folder / name).write_text(f'#!/bin/sh\nexec {shutil.which(name)} -p {broker.port} "$@"\n')
        (folder / name).chmod(0o755)
    topic = {"site": "plant-1", "line": "line-2", "station": "station-3"}
    with RunningAgent(line_with_commands(tmp_path, broker, topic=topic)) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        shell = subprocess.Popen(
            ["bash", "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )  # fmt: skip
        shell.stdin.write(script)
        shell.stdin.flush()
        subscriber.wait_for(lambda s: len([each for each in s.of("ack") if each.json["status"] != "accepted"]) == 9)
        heard, _ = shell.communicate("kill %1\n", timeout=30)
        assert agent.end() == 0
    last = [message.json for message in subscriber.of("ack") if message.json["status"] != "accepted"]
    done = sorted(each["command"] for each in last if each["status"] == "done")
    assert done == ["pause", "resume", "self_test", "set_threshold", "set_threshold", "snapshot"], last
    # this line has no shelf of bundles, and no crop was set
    others = {each["command"]: each["reason"] for each in last if each["status"] != "done"}
    assert others.pop("rollback") in ("nothing_to_undo", "busy")  # while the shelf is looked through
    assert others == {"reload_model": "unknown_bundle", "set_roi": "nothing_to_undo"}
    assert heard.count('"status":"done"') >= 1
