"""Certificates and keys replaced while the agent runs: the next connection takes the new ones, and nothing is lost."""

import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import Mosquitto, Subscriber, free_port, key
from test_tls import write_authority, write_certificate

pytestmark = pytest.mark.broker
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


def test_broker_and_device_get_new_certificates_without_a_gap(tmp_path):
    authority = write_authority(tmp_path / "ca.pem")
    write_certificate(tmp_path / "broker-cert", authority)
    write_certificate(tmp_path / "device", authority)
    plain = free_port()
    lines = (
        f"certfile {tmp_path / 'broker-cert'}.pem", f"keyfile {tmp_path / 'broker-cert'}.key",
        f"cafile {tmp_path / 'ca.pem'}", "require_certificate true", f"listener {plain} 127.0.0.1",
    )  # fmt: skip
    broker = Mosquitto(tmp_path / "broker", lines=lines).start()
    subscriber = Subscriber(plain)
    own = {"ca_file": "ca.pem", "certificate_file": "device.pem", "key_file": "device.key"}
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, mqtt={"tls": own, "replay_per_s": 2000.0})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 10)

        new = write_authority(tmp_path / "new-ca.pem")  # a new authority: the old certificates are worth nothing
        write_certificate(tmp_path / "new", new)
        both = (tmp_path / "ca.pem").read_bytes() + (tmp_path / "new-ca.pem").read_bytes()
        (tmp_path / "ca.pem").write_bytes(both)
        (tmp_path / "new.pem").replace(tmp_path / "device.pem")  # the certificate first: for a moment they don't match
        at = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > at + 10)  # the session that is there lasts
        assert agent.log.count("was lost") == 0
        broker.stop()
        broker.start()
        agent.wait_for(lambda a: "mqtt.tls: the certificate files can't be read" in a.log)
        (tmp_path / "new.key").replace(tmp_path / "device.key")
        agent.wait_for(lambda a: a.log.count("Connected to") == 2)

        (tmp_path / "ca.pem").write_bytes((tmp_path / "new-ca.pem").read_bytes())  # the old authority is withdrawn
        write_certificate(tmp_path / "broker-cert", new)
        broker.stop()
        broker.start()
        agent.wait_for(lambda a: a.log.count("Connected to") == 3)
        agent.wait_given(20)
        given = set(map(key, agent.given))
        subscriber.wait_for(lambda s: given <= s.keys)
        assert agent.end() == 0, agent.log
    ledger = Ledger(given, list(subscriber.results))
    assert ledger.missing == ledger.disagreeing == ledger.out_of_order == []
    assert ledger.gaps == {}
    subscriber.close()
    broker.stop()
