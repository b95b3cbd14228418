"""Canaries in every place that holds a secret; none is ever said: log, state, events, `check`, a crash, the outbox."""

import signal

import pytest
import yaml
from line import RunningAgent, agent, make_line
from mosquitto import Mosquitto, Subscriber, free_port
from test_tls import write_authority, write_certificate

pytestmark = pytest.mark.broker
CANARY = "canary-7391"
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.01}}


def everything_said(folder, *runs):
    """What processes printed, and all that they left in the agent's folder but the secrets themselves."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".secret", ".key")]
    own = [path for path in files if "broker" not in path.relative_to(folder).parts]
    printed = "".join(f"{run.stdout}{run.stderr}" for run in runs)
    return printed.encode() + b"".join(path.read_bytes() for path in own)


def test_a_right_password_from_the_environment_is_never_said_not_even_in_a_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("LINE_PASSWORD", CANARY)
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    broker = Mosquitto(tmp_path / "broker", users={"press-7": CANARY, "mes": "mes"}).start()
    subscriber = Subscriber(broker.port, username="mes", password="mes")
    login = {"username": "press-7", "password": "{LINE_PASSWORD}"}
    config = make_line(tmp_path, port=broker.port, cameras=CAMERA, mqtt=login, health_interval_s=0.2)
    looked = agent("check", config)
    assert looked.returncode == 0, looked.stdout
    with RunningAgent(config) as running:
        subscriber.wait_for(lambda s: s.of("health") and s.of("state") and len(s.results) > 5)
        running.end(signal.SIGABRT)  # a crash: the fault handler prints every thread's stack
    assert "Fatal Python error: Aborted" in running.log
    said = everything_said(tmp_path, looked) + (running.log + "".join(running.printed)).encode()
    assert CANARY.encode() not in said
    assert not [message for message in subscriber.received if CANARY.encode() in message.payload]
    subscriber.close()
    broker.stop()


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("mqtt", {"username": "u", "password": [CANARY]}),
        ("mqtt", {"username": "u", "password": {"x": CANARY}}),
        ("mqtt", {"password": CANARY}),
        ("mqtt", {"username": "u", "password": CANARY, "password_file": "secret"}),
        ("cameras", {"top": {"kind": "rtsp", "url": f"http://user:{CANARY}@host/"}}),
        ("cameras", {"top": {"kind": "rtsp", "url": ["rtsp://" + CANARY]}}),
        ("cameras", {"top": {"kind": "rtsp", "url": f"rtsp://user:{CANARY}@127.0.0.1:1/x", "open_timeout_s": 0.5}}),
        ("cameras", {"top": {"kind": "gstreamer", "pipeline": f"rtspsrc location=rtsp://u:{CANARY}@h ! fakesink"}}),
        ("cameras", {"top": {"kind": "gstreamer", "pipeline": {"x": CANARY}}}),
    ],
)
def test_secrets_in_wrong_settings_are_not_repeated(tmp_path, section, wrong):
    config = make_line(tmp_path, port=free_port(), mqtt={"drain_timeout_s": 0.0})
    document = yaml.safe_load(config.read_text())
    document[section] = {**(document[section] if section == "mqtt" else {}), **wrong}
    config.write_text(yaml.safe_dump(document))
    looked = agent("check", config)
    assert looked.returncode in (1, 2), looked.stdout
    assert CANARY not in looked.stdout + looked.stderr
    assert CANARY.encode() not in everything_said(tmp_path, looked)


def test_keys_and_password_files_are_not_repeated(tmp_path):
    """A key file that is none, a password file that is a key: the error names the file and not what is in it."""
    authority = write_authority(tmp_path / "ca.pem")
    write_certificate(tmp_path / "device", authority)
    (tmp_path / "device.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n")
    (tmp_path / "pass.secret").write_bytes(b"\xff\xfe" + CANARY.encode())
    own = {"ca_file": "ca.pem", "certificate_file": "device.pem", "key_file": "device.key"}
    for changes in ({"tls": own}, {"username": "u", "password_file": "pass.secret"}):
        config = make_line(tmp_path, port=free_port(), cameras=CAMERA, mqtt={"drain_timeout_s": 0.0, **changes})
        looked = agent("check", config)
        assert looked.returncode in (1, 2)
        assert CANARY not in looked.stdout + looked.stderr
        with RunningAgent(config) as running:
            if "tls" in changes:  # tries for ever
                running.wait_given(20)
                running.end()
            else:  # no start without a password
                assert running.wait(60) == 2
        assert CANARY not in running.log + "".join(running.printed)
        assert CANARY.encode() not in everything_said(tmp_path, looked)
