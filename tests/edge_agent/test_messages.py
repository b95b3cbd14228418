"""The surface that subscribers build on: topics, payloads and the committed JSON Schema."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent import clock
from edge_agent.messages import PAYLOADS, Event, Model, Origin, Result, TopicError, Topics, encode, json_schemas

DOCS = Path(__file__).parents[2] / "docs"
TOPICS = Topics("faultline", "plant-1", "line-2", "station-3", "top")
MODEL = Model(name="bottle", version=4, digest="ab" * 32, system="aesc")
ORIGIN = Origin("press-7", "top", 41, TOPICS, MODEL, "0.1.0")


def test_topics_follow_the_tree():
    assert TOPICS.of("result") == "faultline/v1/plant-1/line-2/station-3/top/result"


@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "a b", "é", "a\n", "a.b"])
def test_a_name_that_would_break_the_tree_is_refused(bad):
    with pytest.raises(TopicError, match=r"can't be a level of an MQTT topic. Use letters, digits, _ and - only"):
        Topics("faultline", "plant-1", bad, "station-3", "top")


@pytest.mark.parametrize("leaf", sorted(PAYLOADS))
def test_the_committed_schema_is_the_one_the_agent_uses(leaf):
    committed = json.loads((DOCS / "schema" / f"{leaf}.json").read_text(encoding="utf-8"))
    assert committed == json_schemas()[leaf], "run the command in edge_agent.messages.write_schemas"


@pytest.mark.parametrize("leaf", sorted(PAYLOADS))
def test_the_documented_examples_are_valid(leaf):
    """Each ```json block of docs/messages.md whose heading names a leaf is a payload of that leaf."""
    text = (DOCS / "messages.md").read_text(encoding="utf-8")
    section = text.split(f"\n## `{leaf}`", 1)[1].split("\n## ", 1)[0]
    example = section.split("```json\n", 1)[1].split("```", 1)[0]
    payload = PAYLOADS[leaf].model_validate_json(example)
    assert json.loads(encode(payload)) == json.loads(example)  # every field is shown


def test_every_field_of_every_payload_is_in_the_documentation():
    text = (DOCS / "messages.md").read_text(encoding="utf-8")
    for leaf, payload in PAYLOADS.items():
        for name in payload.model_fields:
            assert f"`{name}`" in text, f"docs/messages.md says nothing about {name} of {leaf}"


def test_result_ids_are_the_four_keys_and_cannot_clash():
    assert ORIGIN.result_id(7) == "press-7.top.41.7"
    other = Origin("press", "7-top", 41, TOPICS, MODEL, "0.1.0")
    assert other.result_id(7) != ORIGIN.result_id(7)


def test_nan_is_refused_because_json_has_none():
    with pytest.raises(ValidationError, match="finite"):
        Result.model_validate({"image_score": float("nan")})


def test_messages_cannot_be_changed_and_have_no_unknown_fields():
    event = Event(**ORIGIN.ids(), ts=clock.now(), event="outbox_evicted", severity="warning", message="m")
    with pytest.raises(ValidationError, match="frozen"):
        event.message = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Event.model_validate({**event.model_dump(), "colour": "red"})


def test_times_are_utc_with_six_digits_and_sort_as_text():
    exact = datetime(2026, 3, 1, 12, 0, 0, 0, tzinfo=timezone(timedelta(hours=2)))
    assert clock.rfc3339(exact) == "2026-03-01T10:00:00.000000Z"
    moments = [exact + timedelta(microseconds=n * 333_333) for n in range(10)]
    assert sorted(map(clock.rfc3339, moments)) == [clock.rfc3339(moment) for moment in moments]


def test_the_state_of_the_clock_is_one_of_two():
    assert clock.time_sync() in ("ok", "free_running")
