"""A YAML file as the agent reads it: values, the line of each, and an answer to every mistake in it.

`{ENV_VAR}` in a value is replaced by the environment variable of that name.
"""

import difflib
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from edge_agent.cameras.settings import CAMERA_KINDS

Location = tuple[str | int, ...]
MAX_NODES = 20_000  # settings, sections and lists of a file; ours has some hundred
SECRET_SETTINGS = ("password", "url", "pipeline")  # what errors never show


class ConfigError(ValueError):
    """The configuration is wrong; one line per finding says file, line, what was found and what would be right."""


class Document:
    """A YAML file as plain values, with the line of every setting and the problems met while reading it."""

    def __init__(self, path: Path, text: str):
        self.path = path
        self.value: Any = None  # where the file isn't even YAML
        self.problems: list[str] = []
        self.lines: dict[Location, int] = {(): 1}
        self.as_written: dict[Location, str] = {}  # values with an {ENV_VAR} in them: what errors show
        self._scalars = yaml.constructor.SafeConstructor()
        self._nodes = 0  # read so far
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if not isinstance(node, yaml.MappingNode):
                what = "is empty" if node is None else "is not a list of `setting: value` lines"
                self.problems.append(f"{path}:1: the file {what}. Copy configs/agent/line.yaml and edit it.")
                return
            self.value = self._read(node, (), ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = 1 if mark is None else mark.line + 1
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be parsed"
            self.problems.append(f"{path}:{line}: not valid YAML: {problem}. Look at this line and the one above it.")
        except RecursionError:
            self.problems.append(f"{path}:1: not valid YAML: its sections are nested too deeply. Close the brackets.")

    def line(self, where: Location) -> int:
        """The line of a setting, or of the nearest section around it."""
        while where not in self.lines:
            where = where[:-1]
        return self.lines[where]

    def _read(self, node: yaml.Node, where: Location, around: tuple[yaml.Node, ...]) -> Any:
        if node in around:
            raise yaml.MarkedYAMLError(problem="the alias contains itself", problem_mark=node.start_mark)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"its aliases unfold to more than {MAX_NODES} values", problem_mark=node.start_mark
            )
        around = (*around, node)
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._read(item, (*where, index), around) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            if (unquoted := _unquoted_variable(node)) is not None:
                return self._substitute(unquoted, where)
            section: dict[str, Any] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "a list or section"
                here = (*where, name)
                line = key.start_mark.line + 1
                if name in section:
                    first = self.lines[here]
                    self.problems.append(
                        f"{self.path}:{line}: {dotted(here)} is set twice, first in line {first}. Keep one."
                    )
                else:
                    self.lines[here] = line
                section[name] = self._read(value, here, around)
            return section
        try:
            value = self._scalars.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # of a date or number that is none
            raise yaml.MarkedYAMLError(
                problem="the value isn't what it looks like", problem_mark=node.start_mark
            ) from None
        return self._substitute(value, where) if isinstance(value, str) else value

    def _substitute(self, text: str, where: Location) -> str:
        def value_of(match: re.Match[str]) -> str:
            self.as_written[where] = text
            value = os.environ.get(match[1])
            if value is None:
                self.problems.append(
                    f"{self.path}:{self.line(where)}: {dotted(where)} uses the environment variable {match[1]}, "
                    "which is not set. Set it where the agent is started."
                )
            return value or ""

        return re.sub(r"\{([A-Z][A-Z0-9_]*)\}", value_of, text)


def _unquoted_variable(node: yaml.MappingNode) -> str | None:
    """`password: {MQTT_PASSWORD}` without quotes is a mapping to YAML; what is meant is plain."""
    if not node.flow_style or len(node.value) != 1:
        return None
    key, value = node.value[0]
    empty = isinstance(value, yaml.ScalarNode) and value.value == ""
    is_name = isinstance(key, yaml.ScalarNode) and re.fullmatch(r"[A-Z][A-Z0-9_]*", key.value) is not None
    return "{" + key.value + "}" if empty and is_name else None


def dotted(where: Location) -> str:
    """As in `mqtt.tls.ca_file`; what would break a line, or a terminal, is escaped."""
    return ".".join(part if (part := str(each)).isprintable() else repr(part)[1:-1] for each in where)


def explain(document: Document, schema: type[BaseModel], error: ErrorDetails) -> str:
    """One finding of pydantic as one line: `agent.yaml:12: mqtt.prot is not a setting. Did you mean port?`"""
    where, found = _locate(document.value, error["loc"])
    start = f"{document.path}:{document.line(where)}: {dotted(where) or 'the file'}"
    if error["type"] == "extra_forbidden":
        known = _settings_at(schema, error["loc"][:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        return f"{start} is not a setting." + (
            f" Did you mean {near[0]}?" if near else f" Settings here: {', '.join(known)}."
        )
    if error["type"] == "missing":
        return f"{start} is missing. Add it; configs/agent/line.yaml shows what it means."
    if error["type"] == "union_tag_not_found":
        return f"{start}.kind is missing. Set it to {CAMERA_KINDS}."
    if error["type"] == "union_tag_invalid":
        line = document.line((*where, "kind"))
        return f"{document.path}:{line}: {dotted(where)}.kind is {found.get('kind')!r}. It may be {CAMERA_KINDS}."
    if where[:-1] == ("cameras",) and error["type"] == "string_pattern_mismatch":
        return f"{start}: the camera's name may hold letters, digits, _ and - only; it becomes part of the topic."
    if where == ("cameras",) and error["type"] in ("too_long", "too_short"):
        return f"{start} has {len(found)} cameras, and one agent inspects with 1 to 8. Start another one for the rest."
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = "It may hold letters, digits, _ and - only; it becomes part of the topic"
    message = message[0].upper() + message[1:] + "."
    if error["type"] in ("model_type", "dict_type"):
        message = "It is a section: settings on the lines below, further to the right."
    secret = any(name in str(where[-1:]) for name in SECRET_SETTINGS)
    if secret or (isinstance(found, dict) and error["type"] == "value_error"):
        return f"{start}: {message}"
    return f"{start} is {_shown(found, document.as_written.get(where))}. {message}"


def _shown(found: Any, as_written: str | None) -> str:
    if isinstance(found, dict | list):
        return "a section" if isinstance(found, dict) else "a list"
    return "empty" if found is None else repr(as_written or found)


def _locate(value: Any, loc: Location) -> tuple[Location, Any]:
    """pydantic's location without the tags of unions, which are no settings, and the value found there."""
    where: Location = ()
    for index, part in enumerate(loc):
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]  # type: ignore[index]
            where = (*where, part)
        elif index == len(loc) - 1 and isinstance(value, dict) and part not in ("[key]", value.get("kind")):
            return (*where, part), None
    return where, value


def _settings_at(schema: Any, loc: Location) -> list[str]:
    """The names of the settings that the section at pydantic's location has."""
    options = list(_models(schema))
    for part in loc:
        inner = [annotation for option in options for annotation in _inside(option, part)]
        options = [model for annotation in inner for model in _models(annotation)] or options
    return [name for option in options for name in getattr(option, "model_fields", ())]


def _models(annotation: Any) -> Iterator[Any]:
    """The sections that an annotation allows: models, and dicts of named models."""
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for option in get_args(annotation):
            yield from _models(option)


def _inside(option: Any, part: str | int) -> Iterator[Any]:
    if get_origin(option) is dict:
        yield get_args(option)[1]
    elif part in option.model_fields:
        yield option.model_fields[part].annotation
    elif "kind" in option.model_fields and part in get_args(option.model_fields["kind"].annotation):
        yield option
