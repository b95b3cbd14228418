"""The agent killed (SIGKILL) around its commands: each has one last word and one effect, and orders stand."""

import json
import signal

import pytest
from commander import commander, line_with_commands, request, states
from line import RunningAgent

pytestmark = pytest.mark.broker
__all__ = ["commander"]


def test_orders_and_answers_survive_sigkill_and_a_replay_has_no_second_effect(tmp_path, broker, subscriber, commander):
    config = line_with_commands(tmp_path, broker)
    up = request("set_threshold", arguments={"threshold": 1.05})
    with RunningAgent(config) as agent:
        subscriber.wait_for(lambda s: len(s.results) > 3)
        first = commander.send(up)
        assert commander.send("pause")["status"] == "done"
        agent.end(signal.SIGKILL)
    at = len(subscriber.received)
    with RunningAgent(config) as agent:
        subscriber.wait_for(
            lambda s: any(each.leaf == "state" and each.json["state"] == "online" for each in s.received[at:])
        )
        assert (states(subscriber)[-1]["threshold"], states(subscriber)[-1]["paused"]) == (1.05, True)
        assert commander.send(up) == first  # word for word, boot and time included
        assert commander.send("resume")["status"] == "done"
        undone = commander.send(request("set_threshold", arguments={"undo": True}))
        assert (undone["threshold_before"], undone["threshold"]) == (1.05, 1.0)
        assert commander.send(up) == first
        assert commander.send({**up, "arguments": {"threshold": 0.95}})["reason"] == "id_reused"
        subscriber.wait_for(lambda s: s.results[-1]["threshold"] == 1.0)
        agent.end(signal.SIGKILL)
    with RunningAgent(config) as agent:
        at = len(subscriber.results)
        subscriber.wait_for(lambda s: len(s.results) > at + 3)
        assert subscriber.results[-1]["threshold"] == 1.0  # and not once more 1.05
        assert agent.end() == 0


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_each_command_with_one_last_word(tmp_path, broker, subscriber, commander):
    """Killed right after the command was published: done before, done at the next start, or never seen."""
    config = line_with_commands(tmp_path, broker)
    sent = []
    for wait_s in (0.0, 0.003, 0.01):
        with RunningAgent(config) as agent:
            agent.wait_given(1)
            sent += [request("set_threshold", arguments={"threshold": 1.05}), request("self_test")]
            for each in sent[-2:]:
                commander.publish(each)
            if wait_s:
                with pytest.raises(AssertionError):
                    subscriber.wait_for(lambda s: False, wait_s)
            agent.end(signal.SIGKILL)
    with RunningAgent(config) as agent:
        agent.wait_given(1)
        for each in sent:
            answer = commander.send(each)
            assert answer["status"] in ("done", "failed"), answer
            assert answer["reason"] in (None, "interrupted")
        agent.wait_given(1)
        assert agent.end() == 0
    for each in sent:
        last = {
            json.dumps(a, sort_keys=True) for a in commander.answers(each["command_id"]) if a["status"] != "accepted"
        }
        assert len(last) == 1
