"""A real network camera that hangs, dies and comes back changed: the verdict says so, and nothing wrong is said."""

import pytest
from line import RunningAgent, make_line
from mosquitto import free_port
from network_camera import NetworkCamera

pytest_plugins = ["distribution_gi"]
WARM, SWAPPED = "c87846", "4678c8"  # RRGGBB, and the same with red and blue changed
JUDGED = ("pass", "reject")
REFERENCE = 25  # frames; 20 tell what the camera looks like


@pytest.mark.slow
@pytest.mark.broker
def test_a_camera_that_hangs_dies_or_comes_back_changed_is_never_judged_wrongly(
    tmp_path, broker, subscriber, gi_folder
):
    camera = NetworkCamera(gi_folder, free_port())
    quick = {"stall_s": 1.0, "open_timeout_s": 30.0, "reconnect_min_s": 0.1, "reconnect_max_s": 0.5}
    source = {"kind": "rtsp", "url": camera.url.replace("//", "//operator:canary-5391@"), **quick}
    config = make_line(tmp_path, port=broker.port, cameras={"top": source}, anomaly_maps={"publish": False})
    config.write_text(config.read_text().replace("path: parts", ""))

    def since(start, happened):
        """The results from number `start` on, once it has happened among them."""
        subscriber.wait_for(lambda s: happened(s.results[start:]), timeout=120)
        return subscriber.results[start:]

    def some(reason, n=3):
        return lambda results: sum(result["reason"] == reason for result in results) >= n

    def judged(n):
        return lambda results: sum(result["verdict"] in JUDGED for result in results) >= n

    try:
        camera.start(WARM)
        with RunningAgent(config) as agent:
            since(0, judged(REFERENCE))
            camera.hold()  # hangs, with its connection open
            stalled = since(0, some("stalled", 2))[-1]
            assert "has given no frame for" in stalled["detail"]
            camera.kill()
            dead = len(subscriber.results)
            camera.start(WARM, width=400)
            wrong_size = since(dead, some("wrong_size"))
            camera.kill()
            resized = len(subscriber.results)
            camera.start(SWAPPED)
            swapped = since(resized, some("wrong_color"))
            camera.kill()
            recoloured = len(subscriber.results)
            camera.start(WARM)
            right = since(recoloured, judged(3))
            assert agent.end() == 0, agent.log
    finally:
        camera.close()
    assert not [result for result in (*wrong_size, *swapped) if result["verdict"] in JUDGED]
    assert {result["reason"] for result in wrong_size} <= {"stalled", "wrong_size"}
    assert {result["reason"] for result in swapped} <= {"stalled", "wrong_size", "wrong_color"}  # late ones of before
    assert {result["reason"] for result in right} <= {None, "stalled", "wrong_color"}
    detail = next(result["detail"] for result in wrong_size if result["reason"] == "wrong_size")
    assert detail.endswith("is 400 x 240 pixels, and 320 x 240 are right.")
    sequence = [result["sequence"] for result in subscriber.results]
    assert sequence == sorted(set(sequence))
    parts = [int(result["part"]) for result in subscriber.results if result["reason"] != "stalled"]
    assert parts == sorted(set(parts))  # no frame has two verdicts
    said = f"{agent.log} {agent.printed} {[message.payload for message in subscriber.received]}"
    assert "canary" not in said
