"""The agent's one YAML file: what it may say, and an answer with file, line and nearest setting to everything else.

`{ENV_VAR}` in a value is replaced by the environment variable of that name. Relative paths start at the file's folder.
"""

import difflib
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from edge_agent.cameras.settings import CAMERA_KINDS, CameraConfig
from edge_agent.drift.settings import DriftConfig
from edge_agent.models.settings import ModelsConfig
from edge_agent.parts.settings import PartsConfig
from edge_agent.settings import ConfigPath, Name, Settings
from edge_agent.spool.settings import SpoolConfig

Location = tuple[str | int, ...]
MAX_NODES = 20_000  # settings, sections and lists of a file; ours has some hundred
SECRET_SETTINGS = ("password", "url", "pipeline")  # what errors never show


class ConfigError(ValueError):
    """The configuration is wrong; one line per finding says file, line, what was found and what would be right."""


class TopicConfig(Settings):
    """Where this agent publishes: `prefix/v1/site/line/station/CAMERA/{result,state,...}`."""

    prefix: Name = "faultline"
    site: Name
    line: Name
    station: Name


class EngineConfig(Settings):
    """What runs the bundle's graph."""

    # auto: the fastest installed here that passes the golden set; replay: the golden set's recorded scores in turn
    kind: Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "replay"] = "auto"
    fallback: bool = True  # where `kind` can't serve, or isn't built yet, ONNX Runtime does; the state says so
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # what openvino computes in; auto: both are tried
    threads: int | None = Field(default=None, ge=1)  # None: as many as the machine has cores
    device: int = Field(default=0, ge=0)  # which GPU
    cache: ConfigPath | None = None  # folder of the engine files that were built on this device
    timeout_s: float = Field(default=10.0, gt=0.0)  # an answer that takes longer is none: the engine is started anew
    wait_s: float = Field(default=5.0, ge=0.0)  # parts wait so long for a new engine, and are unknown after that


class TlsConfig(Settings):
    """An encrypted connection; an empty section (`tls: {}`) trusts the system's certificate authorities."""

    ca_file: ConfigPath | None = None
    certificate_file: ConfigPath | None = None  # this device's own certificate, where the broker asks for one
    key_file: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_has_key(self) -> "TlsConfig":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("give both certificate_file and key_file, or neither")
        return self


class MqttConfig(Settings):
    """The broker, the login, and how hard the agent leans on them."""

    host: str = Field(min_length=1)
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None  # for "{ENV_VAR}"; a password_file keeps it out of the environment too
    password_file: ConfigPath | None = None
    tls: TlsConfig | None = None
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)] | None = None
    version: Annotated[Literal["3.1.1", "5"], BeforeValidator(str)] = "3.1.1"
    keepalive_s: int = Field(default=30, ge=3, le=3600)
    reconnect_min_s: float = Field(default=1.0, gt=0.0)
    reconnect_max_s: float = Field(default=30.0, gt=0.0)
    window: int = Field(default=64, ge=4, le=1000)  # messages on their way to the broker at one time
    replay_per_s: float = Field(default=200.0, gt=0.0)  # the backlog after an outage is sent no faster
    message_expiry_s: int | None = Field(default=None, ge=1)  # MQTT 5: what nobody fetched by then, the broker forgets
    drain_timeout_s: float = Field(default=30.0, ge=0.0)  # wait for the broker when a finite camera has ended

    @model_validator(mode="after")
    def _login_is_whole(self) -> "MqttConfig":
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise ValueError("a password needs a username beside it")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("the longest wait, reconnect_max_s, is below the shortest, reconnect_min_s")
        if self.message_expiry_s is not None and self.version != "5":
            raise ValueError("set version: 5, or leave message_expiry_s out: 3.1.1 has no expiry")
        return self

    def read_password(self) -> SecretStr | None:
        """The password; from password_file at every connection, so that it can be changed while the agent runs."""
        if self.password_file is None:
            return self.password
        try:
            return SecretStr(self.password_file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(
                f"mqtt.password_file: {self.password_file} can't be read ({reason}). "
                "Write the password into that file, readable by the agent's user only."
            ) from None


class OutboxConfig(Settings):
    """Verdicts on disk until the broker has acknowledged them."""

    path: ConfigPath = Path("outbox.db")
    max_rows: int = Field(default=200_000, ge=100)
    max_bytes: int = Field(default=512 * 1024**2, ge=1024**2)
    memory_rows: int = Field(default=10_000, ge=0, le=1_000_000)  # held while the disk takes nothing; 0: the agent ends


class AnomalyMapConfig(Settings):
    """What happens to the anomaly maps of rejected parts."""

    publish: bool = True  # as PNG on their own topic
    folder: ConfigPath | None = None  # save a picture of each reject here
    keep: int = Field(default=1000, ge=1)  # the newest so many pictures stay in the folder


class ThresholdLimits(Settings):
    """What set_threshold may do."""

    min: float = Field(default=0.8, gt=0.0, allow_inf_nan=False)
    max: float = Field(default=1.25, gt=0.0, allow_inf_nan=False)
    step: float = Field(default=0.1, ge=0.0, allow_inf_nan=False)  # by one command
    per_hour: float = Field(default=0.2, ge=0.0, allow_inf_nan=False)  # by all of an hour together; undo is always free

    @model_validator(mode="after")
    def _range_is_in_order(self) -> "ThresholdLimits":
        if self.max < self.min:
            raise ValueError("the largest threshold, max, is below the smallest, min")
        return self


class RoiLimits(Settings):
    """What set_roi may do to the crop of the bundle in service (to the whole frame, where it has none)."""

    max_shift_px: int = Field(default=50, ge=0)  # of the crop's centre, in each direction
    min_scale: float = Field(default=0.9, gt=0.0, le=1.0, allow_inf_nan=False)  # of its width, and of its height
    max_scale: float = Field(default=1.1, ge=1.0, allow_inf_nan=False)


COMMANDS_REMEMBERED = 1000  # ids; a command must have expired before its id is forgotten


class CommandsConfig(Settings):
    """What others may tell the agent over MQTT."""

    enabled: bool = False  # off: every command is answered `rejected`, and the threshold is that of this file
    issuers: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")], ...] = ()  # who may
    max_age_s: float = Field(default=300.0, ge=1.0, le=3600.0)  # no command may be valid for longer
    per_minute: int = Field(default=10, ge=1, le=1000)
    allow_free_running_clock: bool = False  # judge expires_at by a clock that nothing disciplines
    threshold: ThresholdLimits = ThresholdLimits()
    roi: RoiLimits = RoiLimits()
    audit_file: ConfigPath = Path("commands.log")

    @model_validator(mode="after")
    def _is_safe(self) -> "CommandsConfig":
        if self.enabled and not self.issuers:
            raise ValueError("enabled commands need issuers: name who may send them")
        if self.per_minute * (self.max_age_s / 60.0 + 1.0) > COMMANDS_REMEMBERED:
            raise ValueError(
                f"per_minute times max_age_s allows more than the {COMMANDS_REMEMBERED} commands whose ids are "
                "remembered, so an old one could be replayed; lower one of the two"
            )
        return self


def _shape_of_bundle(value: Any) -> str:
    return "one for each camera" if isinstance(value, dict) else "one for all cameras"


# A folder, or one for each camera: `{top: bundles/lid, side: bundles/wall}`.
BundlePaths = Annotated[
    Annotated[ConfigPath, Tag("one for all cameras")] | Annotated[dict[Name, ConfigPath], Tag("one for each camera")],
    Discriminator(_shape_of_bundle),
]


class AgentConfig(Settings):
    """The whole file."""

    device: Name
    public_key: ConfigPath | None = None  # refuse bundles that this Ed25519 key hasn't signed
    topic: TopicConfig
    cameras: dict[Name, CameraConfig] = Field(min_length=1, max_length=8)
    parts: PartsConfig = PartsConfig()
    bundle: BundlePaths
    products: dict[Name, BundlePaths] = Field(
        default_factory=dict
    )  # what a trigger may name; parts without a product are for `bundle`
    engine: EngineConfig = EngineConfig()
    threshold: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)  # a score above it is a reject; 1.0: as fitted
    mqtt: MqttConfig
    outbox: OutboxConfig = OutboxConfig()
    anomaly_maps: AnomalyMapConfig = AnomalyMapConfig()
    commands: CommandsConfig = CommandsConfig()
    models: ModelsConfig = ModelsConfig()
    spool: SpoolConfig = SpoolConfig()
    drift: DriftConfig = DriftConfig()
    health_interval_s: float = Field(default=10.0, gt=0.0)

    @field_validator("parts")
    @classmethod
    def _names_are_cameras(cls, parts: PartsConfig, info: ValidationInfo) -> PartsConfig:
        cameras = info.data.get("cameras", {})
        if len(cameras) > 1 and parts.name in cameras:
            raise ValueError(f"name is {parts.name}, which is one of the cameras; the group needs one of its own")
        if cameras and parts.code.camera not in (None, *cameras):
            raise ValueError(f"code.camera is {parts.code.camera}, and the cameras are {', '.join(cameras)}")
        return parts

    @field_validator("bundle")
    @classmethod
    def _bundle_is_whole(cls, bundle: "Path | dict[str, Path]", info: ValidationInfo) -> "Path | dict[str, Path]":
        _each_camera_has_one(bundle, info)
        return bundle

    @field_validator("products")
    @classmethod
    def _products_are_whole(cls, products: "dict[str, Any]", info: ValidationInfo) -> "dict[str, Any]":
        for name, bundle in products.items():
            _each_camera_has_one(bundle, info, f"product {name}: ")
        return products

    @model_validator(mode="after")
    def _threshold_is_in_range(self) -> "AgentConfig":
        limits = self.commands.threshold
        if self.commands.enabled and not limits.min <= self.threshold <= limits.max:
            raise ValueError(
                f"threshold is {self.threshold:g}, outside commands.threshold, {limits.min:g} to {limits.max:g}; "
                "commands could never come back to it"
            )
        return self

    @property
    def camera(self) -> str:
        """The name of the one camera, or of all together: it is in the ids and in the topics."""
        return next(iter(self.cameras)) if len(self.cameras) == 1 else self.parts.name

    @property
    def bundles(self) -> dict[tuple[str | None, str], Path]:
        """The folder that judges each product (None: a part without one) under each camera."""
        named: list[tuple[str | None, Path | dict[str, Path]]] = [(None, self.bundle), *self.products.items()]
        return {
            (product, camera): paths[camera] if isinstance(paths, dict) else paths
            for product, paths in named
            for camera in self.cameras
        }

    @property
    def client_id(self) -> str:
        """What the broker knows this agent by."""
        return self.mqtt.client_id or f"{self.topic.prefix}-{self.topic.station}-{self.device}-{self.camera}"


def _each_camera_has_one(bundle: "Path | dict[str, Path]", info: ValidationInfo, where: str = "") -> None:
    cameras = info.data.get("cameras", {})
    if not isinstance(bundle, dict) or not cameras:
        return
    if wrong := sorted(set(bundle) ^ set(cameras)):
        raise ValueError(f"{where}give a bundle for each of {', '.join(cameras)}, and no other; see {', '.join(wrong)}")


def read_config(path: Path) -> AgentConfig:
    """Read and check the agent's file. Raises ConfigError that lists everything found wrong, not only the first."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read: {reason}. Copy configs/agent/line.yaml and edit it.") from None
    document = Document(path, text)
    problems, config = document.problems, None
    if document.value is not None:
        try:
            config = AgentConfig.model_validate(document.value, context={"folder": path.parent})
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems = [*problems, *(explain(document, AgentConfig, detail) for detail in found)]
    if problems or config is None:
        raise ConfigError("\n".join(problems))
    return config


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
