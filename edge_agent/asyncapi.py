"""The documents that programs read: AsyncAPI of all topics, JSON Schema of commands, from the agent's own models.

docs/schema/, anew: `python -c "from edge_agent.asyncapi import *; write_documents(Path('docs/schema'))"`
"""

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from edge_agent.commands.requests import COMMANDS, KNOWN, Command
from edge_agent.messages import PAYLOADS, SCHEMA_VERSION, write_schemas
from edge_agent.parts.requests import TriggerRequest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TREE = "{prefix}/v1/{site}/{line}/{station}/{camera}"
LEVELS = {
    "prefix": "`topic.prefix` of the agent's file, faultline by default.",
    "site": "`topic.site`.",
    "line": "`topic.line`.",
    "station": "`topic.station`.",
    "camera": "The camera's name; with several cameras `parts.name`, but for pictures.",
}
TITLES = {
    "result": "The verdict on one part.",
    "state": "Who is alive, and what serves; retained, also the will.",
    "health": "Counts, every few seconds while connected.",
    "event": "Something a person should know about; also the audit record of each command.",
    "ack": "The answer to a command.",
}
PICTURES = {
    "anomaly_map": "The anomaly map of a rejected part, an 8-bit grey PNG.",
    "frame": "The frame that a snapshot took, a PNG of the whole frame.",
}


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0, from the agent's point of view: it sends all but commands and triggers, which it receives."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "serialization") for model in PAYLOADS.values()]
    models += [(model, "validation") for model in (*get_args(Command), TriggerRequest)]
    names, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas = dict(definitions["$defs"])
    payloads = {leaf: names[(model, "serialization")]["$ref"] for leaf, model in PAYLOADS.items()}
    channels, operations, messages = {}, {}, {}
    for leaf, title in TITLES.items():
        messages[leaf] = {
            "title": title,
            "contentType": "application/json",
            "payload": _ref(payloads[leaf]),
        }
        channels[leaf] = _channel(f"{TREE}/{leaf}", title, leaf)
    for leaf, title in PICTURES.items():
        messages[leaf] = {"title": title, "contentType": "image/png"}
        channels[leaf] = _channel(f"{TREE}/{leaf}/{{result_id}}", title, leaf)
        channels[leaf]["parameters"]["result_id"] = {"description": "The `result_id` of the part's verdict."}
    for leaf in channels:
        operations[f"send_{leaf}"] = {
            "action": "send",
            "channel": _ref(f"#/channels/{leaf}"),
            "bindings": {"mqtt": {"qos": 1, "retain": leaf == "state", "bindingVersion": "0.2.0"}},
        }
    channels["cmd"] = _channel(f"{TREE}/cmd", "What the agent can be told; never retained.", *KNOWN)
    for verb, model in zip(KNOWN, get_args(Command), strict=True):
        messages[verb] = {
            "title": (model.__doc__ or "").strip(),
            "contentType": "application/json",
            "correlationId": {"description": "Comes back in `ack`.", "location": "$message.payload#/command_id"},
            "payload": _ref(names[(model, "validation")]["$ref"]),
        }
    operations["receive_cmd"] = {
        "action": "receive",
        "channel": _ref("#/channels/cmd"),
        "bindings": {"mqtt": {"qos": 1, "bindingVersion": "0.2.0"}},
        "reply": {"channel": _ref("#/channels/ack")},
    }
    title = "A part is there; never retained."
    channels["trigger"] = _channel(f"{TREE}/trigger", title, "trigger")
    messages["trigger"] = {
        "title": title,
        "contentType": "application/json",
        "correlationId": {"description": "Comes back in `result`.", "location": "$message.payload#/trigger_id"},
        "payload": _ref(names[(TriggerRequest, "validation")]["$ref"]),
    }
    operations["receive_trigger"] = {
        "action": "receive",
        "channel": _ref("#/channels/trigger"),
        "bindings": {"mqtt": {"qos": 1, "bindingVersion": "0.2.0"}},
        "reply": {"channel": _ref("#/channels/result")},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "The agent on the line",
            "version": SCHEMA_VERSION,
            "description": "Verdicts, states and commands over MQTT 3.1.1 or 5. docs/messages.md says how to read them "
            "safely.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def command_schema() -> dict[str, Any]:
    """JSON Schema of what may be sent on `cmd`."""
    return {"$schema": DIALECT, "title": "Command", **COMMANDS.json_schema()}


def trigger_schema() -> dict[str, Any]:
    """JSON Schema of what may be sent on `trigger`."""
    return {"$schema": DIALECT, **TriggerRequest.model_json_schema()}


def documents() -> dict[str, dict[str, Any]]:
    """By file name; the schemas of the other topics are `messages.json_schemas`."""
    return {"asyncapi.json": asyncapi(), "cmd.json": command_schema(), "trigger.json": trigger_schema()}


def write_documents(folder: Path) -> None:
    write_schemas(folder)
    for name, document in documents().items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _channel(address: str, description: str, *messages: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "parameters": {name: {"description": text} for name, text in LEVELS.items()},
        "messages": {name: _ref(f"#/components/messages/{name}") for name in messages},
    }


def _ref(where: str) -> dict[str, str]:
    return {"$ref": where}
