"""A subscriber that knows nothing of the agent but its topics: what it prints went through a broker."""

import json
import threading
from queue import Queue
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

SUBSCRIBE_S = 20.0


class WitnessFailed(RuntimeError):
    """No subscription; the text says why."""


class Witness:
    """`with Witness(port, topic) as witness: witness.results.get()`: each verdict once, as a dict of its JSON."""

    def __init__(self, port: int, topic: str):
        self.results: Queue[dict[str, Any]] = Queue()
        self._port, self._topic = port, topic
        self._seen: set[str] = set()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="witness")
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> "Witness":
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        if not self._subscribed.wait(SUBSCRIBE_S):
            self._client.loop_stop()
            raise WitnessFailed(f"The broker did not confirm the subscription to {self._topic}. Start again.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        """At least once is what MQTT promises; the id tells a repeat."""
        result = json.loads(message.payload)
        if result["result_id"] not in self._seen:
            self._seen.add(result["result_id"])
            self.results.put(result)
