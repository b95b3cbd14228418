"""One product's bundle, or one camera's, changes on a line of two cameras; the others judge on as before."""

import pytest
from commander import ALLOWED, Commander, request, states
from line import RunningAgent, draw_parts, make_line
from plc import Plc
from shelved import KEY, put
from tiny_bundle import parts, tiny_model, write_bundle, write_public_key

pytestmark = pytest.mark.broker

ALL = "faultline/v1/plant/l1/s1/all"


@pytest.mark.slow
def test_products_and_cameras_change_their_bundles_by_themselves(tmp_path, broker, subscriber):
    draw_parts(tmp_path / "frames", parts(10))
    put(tmp_path, "jars", 3)
    for version in (4, 5):
        put(tmp_path / "models", f"v{version}", version)
    frames = {"kind": "folder", "path": "frames", "loop": True}
    config = make_line(
        tmp_path, port=broker.port, cameras={"top": frames, "side": frames}, products={"jar": "jars"},
        parts={"trigger": "mqtt", "window_ms": 30_000}, commands={**ALLOWED, "per_minute": 60},
        models={"folder": "models"}, public_key=write_public_key(tmp_path / "key.pub", KEY).name,
        health_interval_s=0.2,
    )  # fmt: skip
    write_bundle(tmp_path / "bundle", model=tiny_model(), key=KEY, created="2026-01-01T00:00:00Z")
    plc, commander = Plc(broker.port, topic=f"{ALL}/trigger"), Commander(broker, subscriber)
    number = -1

    def judge(product=None):
        """The versions that judge the next part: top, side."""
        nonlocal number
        number += 1
        plc.trigger(f"t{number}", **({"product": product} if product else {}))
        subscriber.wait_for(lambda s: len(s.keys) > number)
        views = {view["camera"]: view for view in subscriber.results[-1]["views"]}
        assert {view["reason"] for view in views.values()} == {None}, views
        return [views[camera]["model"]["version"] for camera in ("top", "side")]

    def order(command, **arguments):
        sent = request(command, arguments=arguments)
        commander.publish(sent, topic=f"{ALL}/cmd")
        while not any(answer["status"] != "accepted" for answer in commander.answers(sent["command_id"])):
            assert judge("jar") in ([3, 3], [4, 4], [4, 5])  # a shadow needs parts
        return commander.final(sent["command_id"])

    with RunningAgent(config) as agent:
        plc.wait_until_heard(subscriber)
        assert (judge(), judge("jar")) == ([3, 3], [3, 3])
        answer = order("reload_model", version=4, product="jar", shadow_parts=6)
        assert (answer["status"], answer["compared"]["flips"]) == ("done", 0)
        assert answer["compared"]["parts"] >= 6  # of either camera
        assert (judge(), judge("jar")) == ([3, 3], [4, 4])
        assert order("reload_model", path="v5", product="jar", camera="side")["status"] == "done"
        assert (judge(), judge("jar")) == ([3, 3], [4, 5])
        answer = order("rollback", product="jar")
        assert (answer["status"], answer["reason"]) == ("rejected", "unknown_camera")
        assert "jar/side, jar/top, side, top" in answer["detail"]
        assert order("self_test")["status"] == "done"
        assert order("rollback")["reason"] == "nothing_to_undo"
        assert agent.end() == 0, agent.log
    at = len(subscriber.results)
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: states(s)[-1]["state"] == "online")  # and so it has subscribed
        plc.trigger("again", product="jar")
        subscriber.wait_for(lambda s: len(s.results) > at)
        assert [view["model"]["version"] for view in subscriber.results[-1]["views"]] == [5, 4]  # side, top
        plc.trigger("once-more")
        subscriber.wait_for(lambda s: len(s.results) > at + 1)
        assert [view["model"]["version"] for view in subscriber.results[-1]["views"]] == [3, 3]
        assert agent.end() == 0, agent.log
    plc.close()
    commander.close()
