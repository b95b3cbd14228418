"""The shipped ACL file in a real Mosquitto: each role can do its work, and nothing else."""

import json
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import tiny_bundle
from commander import CAMERA, Commander, request
from line import RunningAgent, draw_parts, make_line
from mosquitto import Mosquitto, Subscriber
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from plc import Plc

from edge_agent.config import CommandsConfig, MqttConfig
from edge_agent.connection import Connection
from edge_agent.messages import Topics

pytestmark = pytest.mark.broker

ACL = Path(__file__).parents[2] / "configs" / "agent" / "mosquitto.acl"
PASSWORDS = {
    name: f"{name}-secret" for name in ("press-7", "press-8", "mes", "engineer", "plc")
}  # one for each role, and a second agent
TREE = Topics("faultline", "plant-1", "line-2", "station-3", "top")
OWN = TREE.of("cmd").removesuffix("/cmd")


@pytest.fixture
def broker(tmp_path):
    acl = tmp_path / "mosquitto.acl"
    acl.write_bytes(ACL.read_bytes())
    acl.chmod(0o600)
    # someone who hears everything, to see what the broker lets through
    acl.write_text(f"{acl.read_text()}\nuser observer\ntopic read faultline/#\ntopic read gate/#\n")
    users = {**PASSWORDS, "observer": "observer-secret"}
    broker = Mosquitto(tmp_path / "broker", users=users, lines=(f"acl_file {acl}",)).start()
    yield broker
    broker.stop()


@pytest.fixture
def observer(broker):
    observer = Subscriber(broker.port, name="observer", username="observer", password="observer-secret")
    yield observer
    observer.close()


def publish(broker, user, *topics):
    """A connection for each: some Mosquittos hang up on who publishes what he may not; over 3.1.1 none says why."""
    said = json.dumps({"device": user, "camera": "", "boot": 0, "sequence": 0}).encode()
    for topic in topics:
        connected = threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"test-{user}")
        client.username_pw_set(user, PASSWORDS[user])
        client.on_connect = lambda *_, connected=connected: connected.set()
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        assert connected.wait(30)
        client.publish(topic, said, qos=1).wait_for_publish(30)
        client.disconnect()
        client.loop_stop()


def test_the_roles_can_publish_what_they_are_for_and_nothing_else(broker, observer):
    own = [
        f"{OWN}/{leaf}" for leaf in ("result", "event", "health", "state", "ack", "ack/x", "frame/1", "anomaly_map/1")
    ]
    elsewhere = [
        f"{OWN}/cmd",
        f"{OWN}/cmd/x",
        f"{OWN}/trigger/x",
        f"{OWN}/other/x",
        "faultline/v1/plant-1/line-2/station-3/side/result",
        "faultline/v1/plant-1/line-2/station-4/top/result",
        "faultline/v1/plant-1/line-9/station-3/top/cmd",
        "faultline/v1/plant-1/line-9/station-3/top/trigger",
        "gate/open/now/and/for/ever",
    ]
    for user in PASSWORDS:
        publish(broker, user, *elsewhere, *own)
    for user in PASSWORDS:
        publish(broker, user, f"{OWN}/trigger")
    publish(broker, "engineer", f"{OWN}/cmd")  # the last word: all before it has been let through, or dropped
    observer.wait_for(lambda s: len(s.of("cmd")) == 2)
    came = [(message.json["device"], message.topic) for message in observer.received]
    spoken = [("press-7", topic) for topic in own] + [("engineer", f"{OWN}/cmd")] * 2 + [("plc", f"{OWN}/trigger")]
    assert sorted(came) == sorted(spoken)


def agent_of_the_role(folder, broker):
    return make_line(
        folder,
        port=broker.port,
        cameras=CAMERA,
        topic={"site": "plant-1", "line": "line-2", "station": "station-3"},
        commands={"enabled": True, "issuers": ["engineer"], "allow_free_running_clock": True},
        mqtt={"username": "press-7", "password": PASSWORDS["press-7"]},
    )


def test_an_agent_works_under_its_role_and_obeys_the_commander_alone(tmp_path, broker, observer):
    config = agent_of_the_role(tmp_path, broker)
    mes = Subscriber(broker.port, username="mes", password=PASSWORDS["mes"])
    cmd = TREE.of("cmd")
    with RunningAgent(config) as agent:
        mes.wait_for(lambda s: len(s.results) > 3)
        intruder = Commander(broker, mes, login=("mes", PASSWORDS["mes"]))
        claimed = request("pause")  # it may call itself what it likes
        intruder.publish(claimed, topic=cmd)
        commander = Commander(broker, mes, login=("engineer", PASSWORDS["engineer"]))
        assert commander.send(request("resume"), topic=cmd)["status"] == "done"
        assert commander.send(request("snapshot"), topic=cmd)["status"] == "done"
        mes.wait_for(lambda s: s.of("frame"))
        assert intruder.answers(claimed["command_id"]) == []
        assert agent.end() == 0, agent.log
        assert "lets this user read no commands" not in agent.log
        intruder.close()
        commander.close()
    mes.wait_for(lambda s: s.of("state")[-1].json["state"] == "stopped")
    assert {message.leaf for message in mes.received} >= {"result", "state", "ack", "event", "anomaly_map", "frame"}
    assert "cmd" not in {message.leaf for message in mes.received}
    assert "cmd" in {message.leaf for message in observer.received}
    assert all(result["reason"] is None for result in mes.results)
    mes.close()


def test_an_agent_of_two_cameras_works_under_its_role_and_is_triggered_by_the_plc_alone(tmp_path, broker, observer):
    tree = Topics("faultline", "plant-1", "line-2", "station-4", "all")
    config = make_line(
        tmp_path, port=broker.port, parts={"trigger": "mqtt", "window_ms": 30_000}, health_interval_s=0.2,
        device="press-8", topic={"site": "plant-1", "line": "line-2", "station": "station-4"},
        cameras={name: {"kind": "folder", "path": "parts", "loop": True} for name in ("top", "side")},
        mqtt={"username": "press-8", "password": PASSWORDS["press-8"]}, threshold=0.1,
    )  # fmt: skip
    draw_parts(tmp_path / "parts", tiny_bundle.parts(10))
    mes = Subscriber(broker.port, username="mes", password=PASSWORDS["mes"])
    plc = Plc(broker.port, topic=tree.of("trigger"), login=("plc", PASSWORDS["plc"]))
    intruder = Plc(broker.port, topic=tree.of("trigger"), login=("mes", PASSWORDS["mes"]))
    with RunningAgent(config) as agent:
        plc.wait_until_heard(mes)
        intruder.publish(b'{"trigger_id": "intruder"}')
        plc.trigger("a")
        mes.wait_for(lambda s: len(s.of("anomaly_map")) == 2)
        assert agent.end() == 0, agent.log
        assert "read no triggers" not in agent.log
    assert [result["trigger_id"] for result in mes.results] == ["a"]
    assert {message.topic.split("/")[5] for message in mes.of("anomaly_map")} == {"top", "side"}
    for client in (mes, plc, intruder):
        client.close()


def test_an_agent_that_may_not_answer_still_delivers_its_verdicts(tmp_path):
    """Mosquitto 2.0.11 hangs up on a denied message; newer ones drop it."""
    acl = tmp_path / "mosquitto.acl"
    acl.touch(0o600)
    lines = ACL.read_text().splitlines(keepends=True)
    acl.write_text("".join(line for line in lines if not line.startswith(f"topic write {OWN}/ack")))
    broker = Mosquitto(tmp_path / "broker", users=PASSWORDS, lines=(f"acl_file {acl}",)).start()
    mes = Subscriber(broker.port, username="mes", password=PASSWORDS["mes"])
    with RunningAgent(agent_of_the_role(tmp_path, broker)):
        mes.wait_for(lambda s: len(s.results) > 3)
        commander = Commander(broker, mes, login=("engineer", PASSWORDS["engineer"]))
        commander.publish(request("pause"), topic=TREE.of("cmd"))
        mes.wait_for(lambda s: any(each.json["event"] == "command" for each in s.of("event")))
        mes.wait_for(lambda s: s.results[-1]["reason"] == "paused" and not s.results[-1]["historical"])
        commander.close()
    assert mes.of("ack") == []
    mes.close()
    broker.stop()


def test_a_broker_that_grants_no_subscription_is_named(caplog):
    """Mosquitto grants any and delivers nothing; others say so."""
    connection = Connection(MqttConfig(host="h"), "a", will=None, wake=lambda: None, listen=f"{OWN}/cmd/#")
    denied = ReasonCode(PacketTypes.SUBACK, "Not authorized")
    connection._on_subscribe(None, None, 1, [denied], None)
    assert f"The broker lets this user read no commands on {OWN}/cmd/#. Allow it to read there" in caplog.text


def test_the_roles_are_those_of_the_documented_defaults():
    assert not CommandsConfig().enabled
    assert {line.split()[1] for line in ACL.read_text().splitlines() if line.startswith("user ")} == set(PASSWORDS)
    assert "readwrite" not in ACL.read_text().replace("#", "")
