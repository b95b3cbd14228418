"""Who announces parts, independent of the agent's own code, and cameras whose frames come when the line says so."""

import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from mosquitto import Subscriber
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.agent import Summary, run
from edge_agent.cameras.frame import Camera
from edge_agent.cameras.live import LiveCamera, Mode, Shot
from edge_agent.cameras.settings import LiveCameraConfig
from edge_agent.config import read_config
from edge_agent.messages import Result


class Plc:
    """Publishes triggers, QoS 1, each once."""

    def __init__(self, port: int, *, topic: str, login: tuple[str, str] | None = None):
        self._topic = topic
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="")
        if login is not None:
            self._client.username_pw_set(*login)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def trigger(self, trigger_id: str, **fields: Any) -> None:
        """Returns when the broker has it."""
        self.publish(json.dumps({"trigger_id": trigger_id, **fields}).encode())

    def publish(self, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(self._topic, payload, qos=1, retain=retain).wait_for_publish(30)

    def wait_until_heard(self, subscriber: Subscriber, times: int = 1) -> None:
        """Until the agent has subscribed so often: each time it is given a retained message, which it refuses."""
        if times == 1:
            self.publish(b"is anybody there", retain=True)
        subscriber.wait_for(
            lambda s: any(health.json["triggers_refused"] >= times for health in s.of("health")), timeout=60.0
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class LineCamera:
    """A connection to a camera that the line triggers: a frame for each `expose`."""

    def __init__(self, pictures: np.ndarray):
        self._pictures, self._number = pictures, 0
        self._exposed = threading.Semaphore(0)

    def __call__(self) -> "LineCamera":
        return self

    def expose(self) -> None:
        self._exposed.release()

    def read(self, timeout_s: float) -> Shot | None:
        if not self._exposed.acquire(timeout=timeout_s):
            return None
        picture = self._pictures[self._number % len(self._pictures)]
        self._number += 1
        return Shot(picture.copy())

    def trigger(self) -> None:
        self._exposed.release()

    def close(self) -> None:
        pass


def live(name: str, connection: LineCamera, mode: Mode = "every") -> LiveCamera:
    """Patient, and not looking for what is wrong with a picture: the tiny ones are dark and repeat."""
    checks = {"frozen_frames": None, "black_level": None, "color": False}
    settings = LiveCameraConfig(stall_s=60.0, open_timeout_s=60.0, checks=checks)
    return LiveCamera(name, connection, settings, mode=mode)


def run_with_cameras(
    config: Path,
    cameras: Mapping[str, Camera],
    drive: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> tuple[Summary, list[Result]]:
    """The agent in this process with these cameras, until `drive` returns in a thread of its own; then SIGTERM.

    In the agent's file each camera is a folder whose path is its name.
    """
    given: list[Result] = []
    failures: list[BaseException] = []
    monkeypatch.setattr("edge_agent.agent.open_camera", lambda settings: cameras[settings.path.name])

    def work() -> None:
        try:
            drive()
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=work)

    def first_connection(*arguments: object, **keywords: object) -> Any:
        thread.start()

    monkeypatch.setattr("edge_agent.watchdog.Watchdog.ready", first_connection)  # the line is about to run
    try:
        summary = run(read_config(config), given.append, **options)
    finally:
        if thread.ident is not None:
            thread.join(60)
    if failures:
        raise failures[0]
    return summary, given


def wait_for_verdicts(subscriber: Subscriber, count: int) -> list[dict[str, Any]]:
    """So many, in the order of their sequence."""
    subscriber.wait_for(lambda s: len(s.keys) >= count, timeout=60.0)
    return sorted(subscriber.results, key=lambda result: int(result["sequence"]))


def wait_for_balance(subscriber: Subscriber, triggers: int) -> dict[str, Any]:
    """The health message by which that many parts have come in and none is in hand."""

    def balanced(each: dict[str, Any]) -> bool:
        return bool(each["triggers"] == triggers and each["parts_in_hand"] == 0)

    subscriber.wait_for(lambda s: any(balanced(message.json) for message in s.of("health")), timeout=60.0)
    health: dict[str, Any] = next(message.json for message in subscriber.of("health") if balanced(message.json))
    assert health["triggers"] == health["passed"] + health["rejected"] + health["unknown"]
    return health
