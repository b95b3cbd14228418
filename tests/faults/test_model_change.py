"""Another bundle while the line runs: what is wrong with it is said, and the one before serves on, whatever happens."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from agent_killed_at import STEPS
from commander import Commander, commander, request, states
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from line import RunningAgent
from shelved import KEY, line_with_models, put, put_other, with_file
from tiny_bundle import manifest_fields, tiny_model, write_manifest

pytestmark = pytest.mark.broker
__all__ = ["commander"]

PREPROCESSING = manifest_fields()["preprocessing"]
WRAPPER = str(Path(__file__).parent / "agent_killed_at.py")


def reload_model(commander: Commander, **arguments):
    return commander.send(request("reload_model", arguments=arguments))


def events(subscriber, name):
    return [each.json for each in subscriber.of("event") if each.json["event"] == name]


def versions(results):
    return [result["model"]["version"] for result in results]


def given_between(subscriber, command_id):
    """Verdicts between `accepted` and the last word on the command."""
    received = list(subscriber.received)
    acks = [at for at, each in enumerate(received) if each.leaf == "ack" and each.json["command_id"] == command_id]
    return sum(each.leaf == "result" for each in received[acks[0] : acks[-1]])


def truncated(shelf):
    folder = put(shelf, "truncated", 9)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-20])


def altered(shelf):
    folder = put(shelf, "altered", 9)
    fields = json.loads((folder / "manifest.json").read_bytes())
    write_manifest(folder, {**fields, "sha256": {**fields["sha256"], "model.onnx": "0" * 64}}, None)


def of_another_key(shelf):
    put(shelf, "of_another_key", 9, key=Ed25519PrivateKey.generate())


def unsigned(shelf):
    put(shelf, "unsigned", 9, key=None)


def wrong_digest(shelf):
    folder = put(shelf, "wrong_digest", 9)
    data = bytearray((folder / "golden" / "golden.npz").read_bytes())
    data[100] ^= 1
    (folder / "golden" / "golden.npz").write_bytes(data)


def wrong_opset(shelf):
    put(shelf, "wrong_opset", 9, model=tiny_model(opset=99))


def nan_weights(shelf):
    put(shelf, "nan_weights", 9, model=tiny_model(threshold=float("nan")))


def another_model(shelf):
    put(shelf, "another_model", 9, model=tiny_model(threshold=120.0))


def bomb(shelf):
    """A golden set whose directory promises four gigabytes."""
    folder = put(shelf, "bomb", 9)
    packed = bytearray((folder / "golden" / "golden.npz").read_bytes())
    at = packed.rindex(b"PK\x01\x02") + 24  # the size of the last member
    packed[at : at + 4] = b"\xfe\xff\xff\xff"
    with_file(folder, "golden/golden.npz", bytes(packed))


def traversal(shelf):
    folder = put(shelf, "traversal", 9)
    fields = json.loads((folder / "manifest.json").read_bytes())
    write_manifest(folder, {**fields, "sha256": {**fields["sha256"], "../../bundle/model.onnx": "0" * 64}}, KEY)


def of_another_product(shelf):
    put(shelf, "of_another_product", 9, name="bolts")


def older(shelf):
    put(shelf, "older", 2)


def same_version(shelf):
    put(shelf, "same_version", 3, created="2026-02-01T12:00:00Z")


def looking_beside(shelf):
    put(shelf, "looking_beside", 9, preprocessing={**PREPROCESSING, "crop": [0, 0, 100, 100]})


BROKEN = {
    truncated: ("bad_bundle", "changed after export"),
    altered: ("bad_bundle", "does not fit manifest.json"),
    of_another_key: ("bad_bundle", "does not fit manifest.json"),
    unsigned: ("bad_bundle", "is unsigned"),
    wrong_digest: ("bad_bundle", "changed after export"),
    bomb: ("bad_bundle", "unpacks to 4"),
    traversal: ("bad_bundle", "is no plain path inside the bundle"),
    wrong_opset: ("not_proved", "opset"),
    nan_weights: ("not_proved", "score_error is inf"),
    another_model: ("not_proved", "disagrees with the golden set"),
    of_another_product: ("wrong_product", "It is a bundle of bolts; dots is what is judged here."),
    looking_beside: ("bad_bundle", "reaches beyond the frame of 16 x 12 pixels of top."),
    older: ("not_newer", "It is version 2, and version 3 has served here."),
    same_version: ("not_newer", "It is version 3, and version 3 has served here."),
}


def test_whatever_is_wrong_with_a_bundle_the_one_before_serves_on_and_the_answer_says_why(
    tmp_path, broker, subscriber, commander
):
    config = line_with_models(tmp_path, broker, commands={"enabled": True, "issuers": ["engineer"], "per_minute": 100,
                                                          "allow_free_running_clock": True})  # fmt: skip
    shelf = tmp_path / "models"
    for make in BROKEN:
        make(shelf)
    (shelf / "link").symlink_to(tmp_path / "bundle")
    with RunningAgent(config) as agent:
        agent.wait_given(3)
        for make, (reason, sentence) in BROKEN.items():
            answer = reload_model(commander, path=make.__name__)
            assert (answer["status"], answer["reason"]) == ("failed", reason), answer
            assert sentence in answer["detail"], answer
            assert answer["detail"].endswith("dots version 3 serves on.")
            told = events(subscriber, "model_refused")[-1]
            assert answer["detail"] in told["message"]
            assert told["severity"] == "warning"
        for path in ("..", ".", "link", "missing"):
            assert reload_model(commander, path=path)["reason"] == "unknown_bundle"
        for path in ("../bundle", "/etc", "models/older", "", "a" * 65, "a\0b"):
            assert reload_model(commander, path=path)["reason"] == "malformed"
        assert reload_model(commander, version=7)["reason"] == "unknown_bundle"
        assert "several bundles" in reload_model(commander, version=9)["detail"]
        agent.wait_given(3)
        assert len(events(subscriber, "model_refused")) == len(BROKEN) + 2
        assert {state["model"]["version"] for state in states(subscriber)} == {3}
        assert set(versions(agent.given)) == {3}
        assert {result["reason"] for result in agent.given} == {None}
        assert agent.end() == 0


def test_a_new_bundle_takes_over_between_two_parts_and_stays_over_restarts(tmp_path, broker, subscriber, commander):
    config = line_with_models(tmp_path, broker)
    put(tmp_path / "models", "next", 4)
    with RunningAgent(config) as agent:
        agent.wait_given(3)
        assert commander.send(request("set_threshold", arguments={"threshold": 1.05}))["status"] == "done"
        answer = reload_model(commander, version=4)
        assert (answer["status"], answer["model"]["version"], answer["model_before"]["version"]) == ("done", 4, 3)
        assert given_between(subscriber, answer["command_id"]) > 5  # the line went on while the engine was proved
        agent.wait_for(lambda agent: versions(agent.given)[-1] == 4)
        subscriber.wait_for(lambda s: states(s)[-1]["model"]["version"] == 4)
        assert states(subscriber)[-1]["threshold"] == 1.0  # 1.05 was meant for version 3
        given = agent.given
        assert versions(given) == sorted(versions(given))  # once, and never back
        assert [each["sequence"] for each in given] == list(range(len(given)))
        assert {each["reason"] for each in given} == {None}
        assert {each["threshold"] for each in given if each["model"]["version"] == 4} == {1.0}
        assert given[-1]["model"]["digest"] == answer["model"]["digest"]
        assert events(subscriber, "model_changed")[-1]["message"].startswith("dots version 4 judges instead of")
        agent.end(signal.SIGKILL)
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert versions(agent.given)[0] == 4
        answer = commander.send("rollback")
        assert (answer["status"], answer["model"]["version"]) == ("done", 3)
        agent.wait_for(lambda agent: versions(agent.given)[-1] == 3)
        assert commander.send("rollback")["reason"] == "nothing_to_undo"
        assert agent.end() == 0
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert versions(agent.given)[0] == 3
        assert agent.end() == 0


def test_a_bundle_that_would_give_other_verdicts_is_found_out_by_the_shadow(tmp_path, broker, subscriber, commander):
    config = line_with_models(tmp_path, broker, models={"max_flip_rate": 0.1})
    put_other(tmp_path / "models", "strict", 4, threshold=70.0)
    put(tmp_path / "models", "same", 5)
    with RunningAgent(config) as agent:
        agent.wait_given(3)
        answer = reload_model(commander, path="strict", shadow_parts=20)
        assert (answer["status"], answer["reason"]) == ("failed", "disagrees")
        compared = answer["compared"]
        assert compared["flips"] == 3 > 0.1 * 20  # given up as soon as it can't pass any more
        assert 3 <= compared["parts"] <= 20
        assert "2 of 20 are allowed" in answer["detail"]
        told = events(subscriber, "model_refused")[-1]
        assert told["counts"] == {"shadow_parts": compared["parts"], "verdict_flips": 3}
        assert set(versions(agent.given)) == {3}
        answer = reload_model(commander, path="same", shadow_parts=20)
        assert answer["status"] == "done"
        assert answer["compared"] == {"parts": 20, "flips": 0, "unknown": 0}
        agent.wait_for(lambda agent: versions(agent.given)[-1] == 5)
        given = agent.given
        assert versions(given) == sorted(versions(given))
        assert len({(each["part"], each["verdict"]) for each in given}) == 10  # what only looked on had no say
        put(tmp_path / "models", "last", 6)
        commander.publish(sent := request("reload_model", arguments={"path": "last", "shadow_parts": 100_000}))
        subscriber.wait_for(lambda s: commander.answers(sent["command_id"]))
        agent.wait_given(20)
        assert agent.end() == 0  # at once, whatever is going on beside the line
    with RunningAgent(config) as agent:
        answer = commander.final(sent["command_id"])
        assert (answer["status"], answer["reason"]) == ("failed", "interrupted")
        agent.wait_given(1)
        assert versions(agent.given)[0] == 5
        assert agent.end() == 0


@pytest.mark.slow
def test_a_bundle_that_cannot_judge_its_first_parts_is_rolled_back(tmp_path, broker, subscriber, commander):
    """It agrees with its golden set, and looks at a single pixel of the frame: each map is constant."""
    config = line_with_models(tmp_path, broker, models={"max_failed_parts": 2})
    shelf = tmp_path / "models"
    put(shelf, "flat", 4, preprocessing={**PREPROCESSING, "crop": [0, 0, 1, 1]})
    with RunningAgent(config) as agent:
        agent.wait_given(3)
        assert commander.send(request("set_threshold", arguments={"threshold": 1.05}))["status"] == "done"
        assert reload_model(commander, path="flat")["status"] == "done"
        subscriber.wait_for(lambda s: events(s, "model_rolled_back"))
        told = events(subscriber, "model_rolled_back")[-1]
        assert told["severity"] == "alarm"
        assert told["counts"]["failed_constant_map"] == 3
        assert told["message"].endswith("dots version 3 judges again.")
        subscriber.wait_for(lambda s: states(s)[-1]["model"]["version"] == 3)
        assert states(subscriber)[-1]["threshold"] == 1.05  # as before
        agent.wait_for(lambda agent: versions(agent.given)[-1] == 3)
        given = agent.given
        assert {each["reason"] for each in given if each["model"]["version"] == 4} == {"constant_map"}
        assert {each["reason"] for each in given if each["model"]["version"] == 3} == {None}
        agent.end(signal.SIGKILL)
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert versions(agent.given)[0] == 3
        assert agent.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_one_of_the_two_serves_and_the_answer_says_which(
    tmp_path, broker, subscriber, commander, step
):
    config = line_with_models(tmp_path, broker)
    put(tmp_path / "models", "next", 4)
    with RunningAgent(config) as agent:  # writes its record
        agent.wait_given(1)
        assert agent.end() == 0
    sent = request("reload_model", arguments={"path": "next"})
    with RunningAgent(config, program=[WRAPPER, step]) as agent:
        agent.wait_given(1)
        commander.publish(sent)
        assert agent.wait(60) == -signal.SIGKILL
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        answer = commander.send(sent)
        serves = versions(agent.given)[0]
        kept = step in ("folder not synced", "before the switch", "before the answer", "after the answer")
        assert serves == (4 if kept else 3)
        if kept:
            assert (answer["status"], answer["model"]["version"]) == ("done", 4)
        else:
            assert (answer["status"], answer["reason"]) == ("failed", "interrupted")
        assert agent.end() == 0
    last = {json.dumps(each, sort_keys=True) for each in commander.answers(sent["command_id"])}
    assert len({each for each in last if '"accepted"' not in each}) == 1


def test_a_record_cut_in_half_falls_back_to_the_bundle_of_the_file_and_says_so(tmp_path, broker, subscriber, commander):
    config = line_with_models(tmp_path, broker)
    put(tmp_path / "models", "next", 4)
    record = tmp_path / "models.json"
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert reload_model(commander, path="next")["status"] == "done"
        agent.end(signal.SIGKILL)
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert versions(agent.given)[0] == 3
        subscriber.wait_for(lambda s: events(s, "model_record_lost"))
        assert "is damaged" in events(subscriber, "model_record_lost")[0]["message"]
        assert agent.end() == 0
    assert record.with_name("models.json.unreadable").exists()


@pytest.mark.slow
def test_a_bundle_that_is_gone_at_the_start_gives_way_to_the_one_before(tmp_path, broker, subscriber, commander):
    config = line_with_models(tmp_path, broker)
    put(tmp_path / "models", "next", 4)
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert reload_model(commander, path="next")["status"] == "done"
        assert agent.end() == 0
    shutil.move(tmp_path / "models" / "next", tmp_path / "elsewhere")
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        assert versions(agent.given)[0] == 3
        subscriber.wait_for(lambda s: events(s, "model_rolled_back"))
        assert "dots version 3 serves instead" in events(subscriber, "model_rolled_back")[0]["message"]
        assert agent.end() == 0
    shutil.move(tmp_path / "elsewhere", tmp_path / "models" / "next")
    with RunningAgent(config) as agent:  # back again: it was never taken out of service by anyone
        agent.wait_given(1)
        assert versions(agent.given)[0] == 4
        assert agent.end() == 0
