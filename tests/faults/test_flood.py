"""Everything fails at every part, for long: the log stays short, the disk bounded."""

import pytest
from line import RunningAgent, make_line
from mosquitto import free_port
from proxy import Proxy

CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.002}}


def test_a_thousand_failures_of_each_kind_are_a_handful_of_lines(tmp_path):
    """No broker, every second picture broken, no folder for pictures of rejects, an outbox at its limit."""
    pictures = tmp_path / "rejects"
    config = make_line(
        tmp_path, port=free_port(), cameras=CAMERA, outbox={"max_rows": 200},
        anomaly_maps={"publish": True, "folder": "rejects"},
    )  # fmt: skip
    for path in sorted((tmp_path / "parts").iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:-20])
    with RunningAgent(config) as agent:
        agent.wait_given(5)
        for path in pictures.glob("*.png"):
            path.unlink()
        pictures.rmdir()
        pictures.touch()  # a file in its place: no picture can be written
        agent.wait_given(2000)
        assert {result["verdict"] for result in agent.given} >= {"unknown", "pass"}
        assert agent.end() == 0, agent.log
    assert len(agent.logged) <= 12, agent.log
    assert agent.log.count("Verdicts go on without pictures") == 1
    assert agent.log.count("can't be reached") == 1
    assert agent.log.count("The outbox is full") == 1
    assert sum(path.stat().st_size for path in tmp_path.glob("outbox.db*")) < 8 * 1024**2


@pytest.mark.slow
@pytest.mark.broker
def test_a_flapping_link_is_two_lines_for_each_connection_and_these_become_rare(tmp_path, broker, subscriber):
    proxy = Proxy(broker.port)
    limits = {"reconnect_min_s": 0.05, "reconnect_max_s": 2.0}
    config = make_line(tmp_path, port=proxy.port, cameras=CAMERA, mqtt=limits)
    with RunningAgent(config) as agent:
        agent.wait_given(20)
        for _ in range(200):  # ten times a second
            proxy.cut()
            agent.wait_given(20)
        connections = proxy.connections
        assert agent.end() == 0
    assert connections < 40
    assert len(agent.logged) < 2 * connections + 10
    proxy.close()
