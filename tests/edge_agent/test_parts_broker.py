"""Parts announced over a real broker: two cameras, two products, ids; what comes in comes out, once."""

import json
import threading

import cv2
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from line import RunningAgent, draw_parts, make_line
from mosquitto import key
from paho.mqtt.enums import CallbackAPIVersion
from plc import LineCamera, Plc, live, run_with_cameras, wait_for_balance, wait_for_verdicts
from shelved import put_other
from tiny_bundle import SIZE, parts

from edge_agent.__main__ import main
from edge_agent.cameras import CameraError

pytestmark = pytest.mark.broker

ALL = "faultline/v1/plant/l1/s1/all"
TOP = "faultline/v1/plant/l1/s1/top"
N = 8


def two_cameras(folder, port, **changes):
    """`top` sees parts of which every other one is a reject, `side` good ones alone; a strict product beside."""
    images = parts(N)
    images[:, 3, 5] = np.where(np.arange(N) % 2, 120, 80)[:, None]
    good = parts(N, seed=1)
    good[:, 3, 5] = 70
    draw_parts(folder / "tops", images)
    draw_parts(folder / "sides", good)
    put_other(folder, "strict", 3, threshold=75.0)  # of `top`, where 80 is too much; `side` shows 70
    cameras = {
        "top": {"kind": "folder", "path": "tops", "loop": True},
        "side": {"kind": "folder", "path": "sides", "loop": True},
    }
    settings = {"cameras": cameras, "products": {"jar": "strict"}, "health_interval_s": 0.2, **changes}
    return make_line(folder, port=port, **settings)


def test_a_triggered_line_of_two_cameras_and_two_products(tmp_path, broker, subscriber):
    config = two_cameras(tmp_path, broker.port, parts={"trigger": "mqtt", "window_ms": 30_000})
    plc = Plc(broker.port, topic=f"{ALL}/trigger")
    with RunningAgent(config) as agent:
        plc.wait_until_heard(subscriber)
        for number in range(12):
            product = (None, "jar", "lid")[number % 3]
            plc.trigger(f"t{number}", part=f"p{number}", **({"product": product} if product else {}))
            subscriber.wait_for(lambda s, number=number: len(s.keys) > number)
        health = wait_for_balance(subscriber, 12)
        assert agent.end() == 0, agent.log
    found = wait_for_verdicts(subscriber, 12)
    assert [(result["sequence"], result["part"], result["trigger_id"]) for result in found] == [
        (number, f"p{number}", f"t{number}") for number in range(12)
    ]
    assert {result["camera"] for result in found} == {"all"}
    for number, result in enumerate(found):
        views = {view["camera"]: view for view in result["views"]}
        assert list(views) == ["side", "top"]
        if number % 3 == 2:
            assert (result["verdict"], result["reason"], result["model"]) == ("unknown", "product", None)
            assert result["detail"] == "No bundle judges the product lid under the camera side."
            continue
        bad = number % 2 == 1 or number % 3 == 1  # every other picture; for the strict product all of `top`
        assert (result["verdict"], views["top"]["verdict"]) == (("reject", "reject") if bad else ("pass", "pass"))
        assert views["side"]["verdict"] == "pass"
        assert result["image_score"] == views["top"]["image_score"]
        assert result["product"] == ("jar" if number % 3 == 1 else None)
    assert health["unknown"] == 4
    assert {message.topic.rsplit("/", 1)[0] for message in subscriber.of("anomaly_map")} == {f"{TOP}/anomaly_map"}
    plc.close()


def test_recordings_of_two_cameras_need_no_trigger(tmp_path, broker, subscriber):
    config = two_cameras(tmp_path, broker.port)
    text = config.read_text().replace("loop: true", "loop: 1")
    config.write_text(text)
    with RunningAgent(config) as agent:
        assert agent.wait(120) == 0, agent.log
    found = wait_for_verdicts(subscriber, N)
    assert [result["verdict"] for result in found] == ["pass", "reject"] * (N // 2)
    assert [result["part"] for result in found] == [f"{number:03}.png" for number in range(N)]


def test_what_is_no_trigger_is_refused_told_and_does_no_harm(tmp_path, broker, subscriber):
    config = make_line(
        tmp_path, port=broker.port, parts={"trigger": "mqtt", "window_ms": 30_000}, health_interval_s=0.2,
        cameras={"top": {"kind": "folder", "path": "parts", "loop": True}},
    )  # fmt: skip
    draw_parts(tmp_path / "parts", parts(10))
    plc = Plc(broker.port, topic=f"{TOP}/trigger")
    plc.publish(json.dumps({"trigger_id": "retained"}).encode(), retain=True)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: s.of("event"))
        for payload in (b"", b"\xff" * 10_000, b"[]", b"[" * 4000):
            plc.publish(payload)
        plc.trigger("a", part="p")
        plc.trigger("a", part="q")  # a double trigger
        plc.trigger("b", part="p")  # another one, by its part
        health = wait_for_balance(subscriber, 3)
        assert agent.end() == 0, agent.log
    found = wait_for_verdicts(subscriber, 3)
    assert [(result["part"], result["reason"]) for result in found] == [
        ("p", None),
        ("q", "duplicate"),
        ("p", "duplicate"),
    ]
    assert (health["duplicate"], health["triggers_refused"]) == (2, 4)  # the empty one clears a retained message
    event = subscriber.of("event")[0].json
    assert (event["event"], event["counts"]) == ("trigger_refused", {"refused": 1})
    assert "Publish triggers without retain." in event["message"]
    plc.publish(b"", retain=True)
    plc.close()


def with_code(image, text):
    """The part, larger, with a QR code beside its dot."""
    large = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    code = cv2.resize(cv2.QRCodeEncoder.create().encode(text), (125, 125), interpolation=cv2.INTER_NEAREST)
    large[100:225, 180:305] = (code // 4)[..., None]  # dark, so that it is no reject
    return large


def test_a_code_in_the_frame_names_the_part_and_one_that_is_missing_is_said(tmp_path, broker, subscriber):
    images = np.random.default_rng(0).integers(20, 40, (4, *SIZE, 3), np.uint8)
    coded = np.stack([with_code(image, f"PART-{number}") for number, image in enumerate(images)])
    coded[2, 90:] = 30
    config = make_line(
        tmp_path, port=broker.port, parts={"id": "code", "code": {"timeout_ms": 10_000}}, health_interval_s=0.2,
        cameras={"top": {"kind": "folder", "path": "coded", "interval_s": 0.3}},
    )  # fmt: skip
    draw_parts(tmp_path / "coded", coded)
    with RunningAgent(config) as agent:
        assert agent.wait(120) == 0, agent.log
    found = wait_for_verdicts(subscriber, 4)
    assert [result["part"] for result in found] == ["PART-0", "PART-1", None, "PART-3"]
    assert {result["verdict"] for result in found} == {"pass"}
    assert [result["detail"] for result in found] == [None, None, "No code was read in the frame.", None]


def test_triggers_are_heard_again_after_a_restart_of_the_broker(tmp_path, broker, subscriber):
    config = make_line(
        tmp_path, port=broker.port, parts={"trigger": "mqtt", "window_ms": 30_000}, health_interval_s=0.2,
        cameras={"top": {"kind": "folder", "path": "parts", "loop": True}},
    )  # fmt: skip
    draw_parts(tmp_path / "parts", parts(10))
    plc = Plc(broker.port, topic=f"{TOP}/trigger")
    with RunningAgent(config) as agent:
        plc.wait_until_heard(subscriber)
        plc.trigger("before")
        agent.wait_given(1)
        broker.stop()
        broker.start()
        plc.close()
        plc = Plc(broker.port, topic=f"{TOP}/trigger")
        plc.wait_until_heard(subscriber, 2)
        plc.trigger("after")
        agent.wait_given(1)
        assert agent.end() == 0, agent.log
        assert [result["trigger_id"] for result in agent.given] == ["before", "after"]
        given = {key(result) for result in agent.given}
    subscriber.settle(given)
    assert given <= subscriber.keys
    plc.close()


class Loose(LineCamera):
    """Its plug can be pulled."""

    def __init__(self, pictures):
        super().__init__(pictures)
        self.pulled = threading.Event()

    def __call__(self):
        if self.pulled.is_set():
            raise CameraError("The camera can't be opened.")
        return self

    def read(self, timeout_s):
        if self.pulled.is_set():
            raise CameraError("The cable is out.")
        return super().read(min(timeout_s, 0.05))


def test_a_camera_that_is_lost_and_back_is_told_and_counted(tmp_path, broker, subscriber, monkeypatch):
    config = make_line(
        tmp_path, port=broker.port, health_interval_s=0.1, cameras={"top": {"kind": "folder", "path": "top"}}
    )  # fmt: skip
    draw_parts(tmp_path / "parts", parts(10))
    connection = Loose(parts(4))
    camera = live("The camera", connection)

    def events(name):
        return [message.json for message in subscriber.of("event") if message.json["event"] == name]

    def drive():
        connection.expose()
        subscriber.wait_for(lambda s: len(s.results) == 1)
        connection.pulled.set()
        subscriber.wait_for(lambda s: events("camera_lost"), timeout=60.0)
        connection.pulled.clear()
        subscriber.wait_for(lambda s: events("camera_back"), timeout=60.0)
        connection.expose()
        subscriber.wait_for(lambda s: any(result["reason"] is None for result in s.results[1:]), timeout=60.0)
        subscriber.wait_for(lambda s: any(health.json["camera_reconnects"] == 1 for health in s.of("health")))

    run_with_cameras(config, {"top": camera}, drive, monkeypatch)
    (lost,), (back,) = events("camera_lost"), events("camera_back")
    assert (lost["severity"], lost["counts"]) == ("warning", {"outages": 1})
    assert lost["message"] == (
        "Camera top: The cable is out. It is tried again for ever; without it parts are unknown."
    )  # fmt: skip
    assert (back["severity"], back["counts"]["outages"]) == ("info", 1)
    assert back["counts"]["gone_ms"] > 0
    assert back["message"].startswith("Camera top: The camera is back after ")


def test_with_mqtt_5_verdicts_may_expire_in_the_broker_and_states_never_do(tmp_path, broker):
    config = make_line(tmp_path, port=broker.port, mqtt={"version": 5, "message_expiry_s": 600})
    seen, came = {}, threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="five", protocol=mqtt.MQTTv5)

    def on_message(client, userdata, message):
        seen[message.topic.rsplit("/", 1)[1]] = getattr(message.properties, "MessageExpiryInterval", None)
        if {"result", "state"} <= set(seen):
            came.set()

    subscribed = threading.Event()
    client.on_message, client.on_subscribe = on_message, lambda *_: subscribed.set()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.subscribe("faultline/#", qos=1)
    assert subscribed.wait(30)
    with RunningAgent(config) as agent:
        assert agent.wait(120) == 0, agent.log
    assert came.wait(30)
    client.disconnect()
    client.loop_stop()
    assert seen["state"] is None
    assert 0 < seen["result"] <= 600


def test_check_looks_at_every_camera_and_every_bundle(tmp_path, capsys):
    config = two_cameras(tmp_path, port=9)
    with pytest.raises(SystemExit):
        main(["check", str(config)])
    said = capsys.readouterr().out
    assert "camera top: gives frames of 16 x 12 pixels" in said
    assert "camera side: gives frames of 16 x 12 pixels" in said
    assert said.count("is whole: dots version 3") == 2
