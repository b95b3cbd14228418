"""The agent's file is edited, and broken, while the line runs: what runs stays; the next start says file and line."""

import pytest
from line import RunningAgent, agent, make_line
from mosquitto import Mosquitto, Subscriber

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


def test_a_file_that_is_broken_while_the_agent_runs_changes_nothing_until_the_next_start(tmp_path, broker, subscriber):
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, threshold=1.0)
    right = config.read_text()
    with RunningAgent(config) as running:
        running.wait_given(20)
        for broken in (right.replace("threshold: 1.0", "threshold: 2.0\nthreshhold: 3.0"), "device: [", ""):
            config.write_text(broken)
            broker.stop()  # a new session reads nothing of it either
            broker.start()
            at = len(running.printed)
            running.wait_given(20)
            assert {result["threshold"] for result in running.given[at:]} == {1.0}
        assert running.end() == 0, running.log
    config.write_text(right.replace("threshold: 1.0", "threshold: 2.0\nthreshhold: 3.0"))
    line = config.read_text().splitlines().index("threshhold: 3.0") + 1
    for command in (("check", config), ("run", "--config", config)):
        done = agent(*command)
        assert done.returncode == 2
        said = f"{done.stdout}{done.stderr}".replace("\n", " ")
        assert f"agent.yaml:{line}: threshhold is not a setting. Did you mean threshold?" in said
    config.write_text(right)
    with RunningAgent(config) as running:
        running.wait_given(5)
        assert running.end() == 0


def test_a_password_file_that_is_gone_or_wrong_costs_the_next_session_only(tmp_path):
    """What is read anew at each connection: half written or missing, it is told, and tried again."""
    broker = Mosquitto(tmp_path / "broker", users={"press-7": "right", "mes": "mes"}).start()
    subscriber = Subscriber(broker.port, username="mes", password="mes")
    secret = tmp_path / "secret"
    secret.write_text("right")
    login = {"username": "press-7", "password_file": "secret"}
    with RunningAgent(make_line(tmp_path, port=broker.port, cameras=CAMERA, mqtt=login)) as running:
        subscriber.wait_for(lambda s: len(s.results) > 5)
        secret.unlink()
        at = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > at + 20)  # the session that is there goes on
        broker.stop()
        broker.start()
        running.wait_for(lambda a: "mqtt.password_file" in a.log)
        running.wait_given(20)
        secret.write_text("right")
        given = {(r["boot"], r["sequence"]) for r in running.given}
        subscriber.wait_for(lambda s: given <= {(r["boot"], r["sequence"]) for r in s.results})
        assert running.end() == 0
    subscriber.close()
    broker.stop()
