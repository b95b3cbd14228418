"""The documents for programs: fresh, sound, and true of what a running agent said."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from edge_agent.asyncapi import asyncapi, documents
from edge_agent.commands.requests import COMMANDS, KNOWN
from edge_agent.messages import PAYLOADS, Leaf, Topics, encode, json_schemas
from edge_agent.parts.requests import TriggerRequest

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
EXAMPLES = sorted((SCHEMAS / "examples").glob("*.json"))


@pytest.mark.parametrize("name", sorted(documents()))
def test_the_committed_document_is_the_one_the_agent_uses(name):
    committed = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    assert committed == documents()[name], "run the command at the top of edge_agent/asyncapi.py"


def references(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("document", [*documents().values(), *json_schemas().values()])
def test_every_reference_leads_somewhere(document):
    for reference in references(document):
        assert reference.startswith("#/"), "nothing outside the document"
        target = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]
        assert target, reference


def test_every_topic_is_a_channel_whose_address_is_the_agents_own():
    document = asyncapi()
    assert set(document["channels"]) == set(get_args(Leaf))
    topics = Topics("faultline", "plant-1", "line-2", "station-3", "top")
    levels = {"prefix": "faultline", "site": "plant-1", "line": "line-2", "station": "station-3", "camera": "top"}
    for leaf, channel in document["channels"].items():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        address = channel["address"].removesuffix("/{result_id}").format(**levels)
        assert address == topics.of(leaf)
    assert set(document["channels"]["cmd"]["messages"]) == set(KNOWN)
    retained = {name for name, each in document["operations"].items() if each["bindings"]["mqtt"].get("retain", False)}
    assert retained == {"send_state"}


def test_there_is_an_example_of_every_payload_and_every_command():
    recorded = {path.stem.split(".")[0] for path in EXAMPLES}
    assert recorded == {*PAYLOADS, "cmd", "trigger"}
    assert {json.loads(path.read_text())["command"] for path in EXAMPLES if path.stem.startswith("cmd.")} == set(KNOWN)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_agent_said_is_what_the_models_say(path):
    leaf, text = path.stem.split(".")[0], path.read_text(encoding="utf-8")
    if leaf == "cmd":
        sent = COMMANDS.validate_python(json.loads(text))
        assert sent.model_dump(exclude_unset=True) == json.loads(text)
    elif leaf == "trigger":
        assert TriggerRequest.model_validate_json(text).model_dump(exclude_unset=True) == json.loads(text)
    else:
        assert json.loads(encode(PAYLOADS[leaf].model_validate_json(text))) == json.loads(text)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_agent_said_is_valid_by_the_schemas_alone(path):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install jsonschema")
    leaf, value = path.stem.split(".")[0], json.loads(path.read_text(encoding="utf-8"))
    schema = json.loads((SCHEMAS / f"{leaf}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)
    for name in value:  # every field is described, and nothing else may stand there
        assert not jsonschema.Draft202012Validator(schema).is_valid({**value, f"{name}_": 1})


def test_no_example_names_a_machine_or_a_folder():
    for path in EXAMPLES:
        assert not re.search(r'"/|/tmp|/home|/root', path.read_text(encoding="utf-8")), path.name
