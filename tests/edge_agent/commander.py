"""Someone who sends commands, independent of the agent's own code."""

import json
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from line import make_line
from mosquitto import Mosquitto, Subscriber
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TOPIC = "faultline/v1/plant/l1/s1/top"
# Machines without NTP run these tests too; what a free-running clock changes has a test of its own.
ALLOWED = {"enabled": True, "issuers": ["engineer"], "allow_free_running_clock": True}
CAMERA = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.02}}


def line_with_commands(folder: Path, broker: Mosquitto, **changes: Any) -> Path:
    """The agent's file of a line that never ends and may be commanded."""
    return make_line(folder, port=broker.port, **{"cameras": CAMERA, "commands": ALLOWED, **changes})


def states(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [message.json for message in subscriber.of("state")]


def request(command: str, *, valid_s: float = 60.0, **changes: Any) -> dict[str, Any]:
    """A sound command of its own id, but for `changes`; None leaves a field out."""
    expires = datetime.now(timezone.utc) + timedelta(seconds=valid_s)
    fields = {
        "command_id": str(uuid.uuid4()),
        "command": command,
        "issued_by": "engineer",
        "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


class Commander:
    """Publishes commands, and waits for their answers as `subscriber` receives them."""

    def __init__(
        self, broker: Mosquitto, subscriber: Subscriber, *, version: str = "3.1.1", login: tuple[str, str] | None = None
    ):
        self._subscriber, self._version = subscriber, version
        protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="", protocol=protocol)
        if login is not None:
            self._client.username_pw_set(*login)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def publish(self, payload: Any, *, topic: str = f"{TOPIC}/cmd", retain: bool = False, **properties: Any) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        given = None
        if self._version == "5":
            given = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(given, name, value)
        self._client.publish(topic, data, qos=1, retain=retain, properties=given).wait_for_publish(30)

    def answers(self, command_id: str) -> list[dict[str, Any]]:
        """The acks so far, without repetitions of the transport."""
        return [message.json for message in self._subscriber.of("ack") if message.json["command_id"] == command_id]

    def send(self, command: str | dict[str, Any], **options: Any) -> dict[str, Any]:
        """Publish, wait for the last word on it, give that back."""
        sent = request(command) if isinstance(command, str) else command
        before = len(self.answers(sent["command_id"]))
        self.publish(sent, **options)
        return self.final(sent["command_id"], after=before)

    def final(self, command_id: str, *, after: int = 0) -> dict[str, Any]:
        def ended(_: Subscriber) -> bool:
            return any(answer["status"] != "accepted" for answer in self.answers(command_id)[after:])

        self._subscriber.wait_for(ended)
        return self.answers(command_id)[-1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def commander(broker: Mosquitto, subscriber: Subscriber) -> Any:
    commander = Commander(broker, subscriber)
    yield commander
    commander.close()
