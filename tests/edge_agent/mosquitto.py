"""A real broker on a free loopback port, and a subscriber that is independent of the agent's own code."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

START_S = 20.0  # generous: a loaded machine is no failure


def find_mosquitto() -> str:
    """The broker's program; without it tests skip, but on CI they fail."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None and os.environ.get("CI"):
        pytest.fail("Mosquitto is not installed, and CI must run the broker's tests: apt-get install mosquitto")
    if program is None:
        pytest.skip("Mosquitto is not installed: apt-get install mosquitto")
    return program


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Mosquitto:
    """Starts and stops; keeps its sessions on disk like a broker that plants use. users: name -> password."""

    def __init__(self, folder: Path, *, users: dict[str, str] | None = None, lines: tuple[str, ...] = ()):
        self._program, self.port = find_mosquitto(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        config = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 0",
            *lines,
        ]
        if os.geteuid() == 0:
            config.append("user root")
        if users is None:
            config.append("allow_anonymous true")
        else:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            passwords.chmod(0o600)
            subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
            config += ["allow_anonymous false", f"password_file {passwords}"]
        self._config.write_text("\n".join(config) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Mosquitto":
        log = self._config.with_suffix(".log").open("ab")
        lines = map(str.split, self._config.read_text().splitlines())
        listeners = [int(line[1]) for line in lines if line[:1] == ["listener"]]
        self._process = subprocess.Popen([self._program, "-c", str(self._config)], stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + START_S
        while True:
            try:
                for port in listeners:
                    socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(self._config.with_suffix(".log").read_text()) from None
                time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)
            self._process = None


Key = tuple[str, str, int, int]  # device, camera, boot, sequence: what subscribers de-duplicate by


def key(result: dict[str, Any]) -> Key:
    return result["device"], result["camera"], result["boot"], result["sequence"]


class Received(NamedTuple):
    topic: str
    payload: bytes
    retain: bool

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def leaf(self) -> str:
        return self.topic.split("/")[6]


class Subscriber:
    """Records all below `faultline/`, QoS 1, in a session that outlives restarts of the broker."""

    def __init__(self, port: int, *, name: str = "mes", username: str | None = None, password: str | None = None):
        self.received: list[Received] = []
        self.results: list[dict[str, Any]] = []  # those of them that are verdicts
        self.keys: set[Key] = set()
        self._changed, self._subscribed = threading.Condition(), threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, manual_ack=False)
        client.reconnect_delay_set(1, 1)
        if username is not None:
            client.username_pw_set(username, password)
        client.on_connect = lambda client, *_: client.subscribe("faultline/#", qos=1)
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = self._on_message
        client.connect("127.0.0.1", port)
        client.loop_start()
        self._client = client
        assert self._subscribed.wait(START_S), "the subscriber got no answer"

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        received = Received(message.topic, message.payload, message.retain)
        with self._changed:
            self.received.append(received)
            if received.leaf == "result":
                self.results.append(received.json)
                self.keys.add(key(received.json))
            self._changed.notify_all()

    def of(self, leaf: str) -> list[Received]:
        return [message for message in list(self.received) if message.leaf == leaf]

    def wait_for(self, happened: Callable[["Subscriber"], bool], timeout: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: happened(self), timeout), self.received[-1:]

    def settle(self, expected: set[Key], quiet_s: float = 10.0) -> None:
        """Until all that is expected has arrived, or nothing more has come for a while."""
        with self._changed:
            while not expected <= self.keys and self._changed.wait(quiet_s):
                pass

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
