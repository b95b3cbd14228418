"""Two agents of one name: a copied SD card, a copied file. Both say so, once, and they don't fight for the session."""

import shutil
import signal

import pytest
from line import RunningAgent, make_line
from mosquitto import Mosquitto, Subscriber
from proxy import Proxy

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.02}}


def clashes(subscriber):
    return [message.json for message in subscriber.of("event") if message.json["event"] == "identity_clash"]


def copied(folder, port, **mqtt):
    """A device and its copy, outbox included, as from one SD card."""
    first = make_line(folder / "first", port=port, cameras=CAMERA, mqtt=mqtt)
    with RunningAgent(first) as agent:
        agent.wait_given(5)
        assert agent.end() == 0
    shutil.copytree(folder / "first", folder / "second")
    return first, folder / "second" / "agent.yaml"


@pytest.mark.parametrize("version", ["3.1.1", pytest.param("5", marks=pytest.mark.slow)])
def test_a_copied_device_is_told_by_both_and_causes_no_storm(tmp_path, broker, subscriber, version):
    proxy = Proxy(broker.port)  # counts connections
    limits = {"reconnect_min_s": 0.05, "reconnect_max_s": 4.0, "version": version}
    (tmp_path / "first").mkdir()
    first, second = copied(tmp_path, proxy.port, **limits)
    at = proxy.connections
    with RunningAgent(first) as one, RunningAgent(second) as other:
        one.wait_given(1)
        other.wait_given(1)
        subscriber.wait_for(lambda s: len(clashes(s)) >= 2, timeout=60)
        seen = proxy.connections
        one.wait_given(400)  # eight seconds and more
        assert proxy.connections - seen <= 12  # 4 s at most, half of that at least, for each of the two
        assert len(one.given) > 400  # both inspect
        assert other.wait_given(1) is None
        one.end()
        other.end()
    assert proxy.connections - at < 40
    told = clashes(subscriber)
    assert {event["severity"] for event in told} == {"alarm"}
    assert len({event["ts"] for event in told}) == 2  # once by each, however long it lasts
    for agent in (one, other):
        assert agent.log.count("Give each its own device name and client id.") == 1
    proxy.close()


def test_two_client_ids_for_one_device_are_told_by_both(tmp_path, broker, subscriber):
    """Each keeps its session, so nothing flaps; only the states tell."""
    (tmp_path / "first").mkdir()
    first, second = copied(tmp_path, broker.port)
    second.write_text(second.read_text().replace("mqtt:\n", "mqtt:\n  client_id: copy\n"))
    with RunningAgent(first) as one, RunningAgent(second) as other:
        subscriber.wait_for(lambda s: len({event["ts"] for event in clashes(s)}) == 2, timeout=60)
        one.wait_given(50)
        other.wait_given(50)
        assert (one.log + other.log).count("was lost") == 0
        one.end()
        other.end()
    assert len({event["ts"] for event in clashes(subscriber)}) == 2
    assert "Another agent speaks for this device and camera" in clashes(subscriber)[0]["message"]


def test_an_agent_that_starts_again_is_no_second_one(tmp_path, broker, subscriber):
    """Killed, restarted, with a broker that publishes the will in between, and one that comes back."""
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA)
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with RunningAgent(config) as agent:
            agent.wait_for(lambda a: a.log.count("Connected to") == 1)
            agent.wait_given(3)
            broker.stop()
            agent.wait_given(3)
            broker.start()
            agent.wait_for(lambda a: a.log.count("Connected to") == 2)
            agent.wait_given(3)
            agent.end(end)
        assert "Another agent" not in agent.log
    assert clashes(subscriber) == []


@pytest.mark.slow
def test_a_broker_that_denies_the_verdicts_is_named_and_is_not_stormed(tmp_path):
    """Mosquitto 2.0 hangs up on who publishes what he may not, over MQTT 3.1.1."""
    acl = tmp_path / "acl"
    acl.touch(0o600)
    own = "faultline/v1/plant/l1/s1/top"
    acl.write_text(f"user press-7\ntopic write {own}/state\ntopic write {own}/event\ntopic read {own}/state\n"
                   "user mes\ntopic read faultline/#\n")  # fmt: skip
    broker = Mosquitto(
        tmp_path / "broker", users={"press-7": "x", "mes": "y"}, lines=(f"acl_file {acl}",)
    ).start()  # fmt: skip
    subscriber = Subscriber(broker.port, username="mes", password="y")
    proxy = Proxy(broker.port)
    (tmp_path / "secret").write_text("x")
    login = {"username": "press-7", "password_file": "secret", "reconnect_min_s": 0.05, "reconnect_max_s": 4.0}
    config = make_line(tmp_path, port=proxy.port, cameras=CAMERA, mqtt=login)
    with RunningAgent(config) as agent:
        if broker_hangs_up(agent):
            agent.wait_for(lambda a: "have ended before the broker took a verdict" in a.log)
            assert f"took a verdict on {own}/result. All are kept." in agent.log
            assert "allow this user to" in agent.log
            seen = proxy.connections
            agent.wait_given(400)
            assert proxy.connections - seen <= 6
        acl.write_text(acl.read_text().replace("user mes", f"topic write {own}/#\nuser mes"))
        broker.stop()
        broker.start()
        subscriber.wait_for(lambda s: {r["sequence"] for r in s.results} >= set(range(100)), timeout=60)
        assert agent.end() == 0
    subscriber.close()
    proxy.close()
    broker.stop()


def broker_hangs_up(agent):
    agent.wait_given(50)
    return "was lost" in agent.log
