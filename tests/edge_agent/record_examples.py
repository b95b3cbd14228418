"""Record docs/schema/examples/ from a running agent: `python tests/edge_agent/record_examples.py`"""

import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from commander import ALLOWED, CAMERA, Commander, request  # noqa: E402
from line import RunningAgent, make_line  # noqa: E402
from mosquitto import Mosquitto, Subscriber  # noqa: E402
from plc import Plc  # noqa: E402
from shelved import put  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "docs" / "schema" / "examples"


def write(name: str, payload: dict) -> None:
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    (EXAMPLES / f"{name}.json").write_text(json.dumps(payload, indent=2) + "\n", encoding="utf-8")


def record(folder: Path) -> None:
    """Every kind of message that a station says on a good day, and the commands that made it say some of them."""
    broker = Mosquitto(folder / "broker").start()
    subscriber = Subscriber(broker.port)
    commander = Commander(broker, subscriber)
    config = make_line(
        folder, port=broker.port, cameras=CAMERA, commands={**ALLOWED, "per_minute": 60}, models={"folder": "models"},
        health_interval_s=0.5,
    )  # fmt: skip
    for version in (2, 4):
        put(folder / "models", f"dots-v{version}", version, key=None)
    commands = {
        "set_threshold": request("set_threshold", arguments={"threshold": 1.05}),
        "undo": request("set_threshold", arguments={"undo": True}),
        "set_roi": request("set_roi", arguments={"x": 1, "y": 0, "width": 15, "height": 12}),
        "undo_roi": request("set_roi", arguments={"undo": True}),
        "reload_model": request("reload_model", arguments={"version": 4, "shadow_parts": 20}),
        "rollback": request("rollback"),
        "reload_model_by_path": request("reload_model", arguments={"path": "dots-v2"}),
        "snapshot": request("snapshot"),
        "self_test": request("self_test"),
        "pause": request("pause"),
        "resume": request("resume"),
        "refused": request("set_threshold", arguments={"threshold": 7.5}),
    }
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: {result["verdict"] for result in s.results} == {"pass", "reject"})
        write("state", subscriber.of("state")[-1].json)
        for name, sent in commands.items():
            if name != "refused":
                write(f"cmd.{name}", sent)
            write(f"ack.{name}", commander.send(sent))
        subscriber.wait_for(lambda s: s.of("health"))
        agent.end()
    subscriber.wait_for(lambda s: s.of("state")[-1].json["state"] == "stopped")
    for verdict in ("pass", "reject", "unknown"):
        write(f"result.{verdict}", next(result for result in subscriber.results if result["verdict"] == verdict))
    write("health", subscriber.of("health")[-1].json)
    changed = [each.json for each in subscriber.of("event") if each.json["event"] == "model_changed"]
    write("event.model_changed", changed[0])
    write("event", subscriber.of("event")[0].json)
    write("state.stopped", subscriber.of("state")[-1].json)
    commander.close()
    subscriber.close()
    broker.stop()


def record_parts(folder: Path) -> None:
    """A part that a message announces and two cameras see."""
    broker = Mosquitto(folder / "broker").start()
    subscriber = Subscriber(broker.port)
    cameras = {name: {"kind": "folder", "path": "parts", "loop": True} for name in ("top", "side")}
    config = make_line(
        folder, port=broker.port, parts={"trigger": "mqtt"}, cameras=cameras, products={"dots": "bundle"},
        health_interval_s=0.5,
    )  # fmt: skip
    plc = Plc(broker.port, topic="faultline/v1/plant/l1/s1/all/trigger")
    trigger = {"trigger_id": "plc-4-000817", "part": "A-2291", "product": "dots"}
    with RunningAgent(config) as agent:
        plc.wait_until_heard(subscriber)
        plc.trigger(**trigger)
        plc.trigger(**trigger)
        subscriber.wait_for(lambda s: len(s.results) == 2)
        agent.end()
    write("trigger", trigger)
    write("result.views", subscriber.results[0])
    write("result.duplicate", subscriber.results[1])
    write("event.trigger_refused", subscriber.of("event")[0].json)
    plc.close()
    subscriber.close()
    broker.stop()


if __name__ == "__main__":
    for what in (record, record_parts):
        with tempfile.TemporaryDirectory() as temporary:
            what(Path(temporary))
