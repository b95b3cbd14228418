"""What a command looks like, and how bytes from anywhere become one, or a reason why they don't."""

import hashlib
import json
import re
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import ErrorDetails

from edge_agent.messages import AckReason, Box
from edge_agent.models.shelf import NAME
from edge_agent.strict_json import read_object

IDENTIFIER = r"^[A-Za-z0-9._-]{1,64}$"

Identifier = Annotated[str, Field(pattern=IDENTIFIER)]


class Section(BaseModel):
    """Strict: no unknown field, no value of another type, no NaN; an error never repeats what was sent."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )


class NoArguments(Section):
    """`{}`, or left out."""


class ThresholdArguments(Section):
    """Exactly one of the two."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    threshold: float | None = Field(default=None, gt=0.0, description="What image_score is compared with.")
    undo: Literal[True] | None = Field(default=None, description="Give back the threshold before the present one.")


class ReloadArguments(Section):
    """Which bundle, by exactly one of `path` and `version`; whom it is to judge for."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["version"]}]})

    path: Annotated[str, Field(pattern=NAME)] | None = Field(
        default=None, description="The bundle's folder in `models.folder`: its name, nothing else."
    )
    version: int | None = Field(default=None, ge=1, description="The version of the product in service.")
    shadow_parts: int = Field(
        default=0, ge=0, le=100_000, description="So many parts are scored by both before it takes over."
    )
    product: Identifier | None = Field(default=None, description="Left out: what judges parts without a product.")
    camera: Identifier | None = Field(default=None, description="Left out: all cameras that share the bundle.")


class RollbackArguments(Section):
    """Whose bundle."""

    product: Identifier | None = Field(default=None, description="Left out: what judges parts without a product.")
    camera: Identifier | None = Field(default=None, description="Left out: all cameras that share the bundle.")


class RoiArguments(Section):
    """The crop box in pixels of the whole upright frame, all four; or undo."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["x", "y", "width", "height"]}, {"required": ["undo"]}]}
    )

    x: int | None = Field(default=None, ge=0)
    y: int | None = Field(default=None, ge=0)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    undo: Literal[True] | None = Field(default=None, description="Give back the crop before the present one.")
    product: Identifier | None = Field(default=None, description="Left out: what judges parts without a product.")
    camera: Identifier | None = Field(default=None, description="May be left out where there is one.")

    @property
    def box(self) -> Box | None:
        """None: undo."""
        sides = (self.x, self.y, self.width, self.height)
        return None if None in sides else cast(Box, sides)


class Request(Section):
    """What all commands have in common."""

    command_id: Identifier = Field(
        description="The sender's own, never used twice (a UUID): the same id gets the same answer, and no new effect."
    )
    issued_by: Identifier = Field(description="Who sends it; has to be in `commands.issuers` of the configuration.")
    expires_at: str = Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$",
        description="RFC 3339, UTC with Z. Later than this it has no effect; at most `commands.max_age_s` ahead.",
    )

    @field_validator("expires_at")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        moment(value)
        return value

    @property
    def expires(self) -> datetime:
        return moment(self.expires_at)


class SetThreshold(Request):
    """Compare scores with another limit, from the next part on."""

    command: Literal["set_threshold"]
    arguments: ThresholdArguments

    @field_validator("arguments")
    @classmethod
    def _is_one(cls, value: ThresholdArguments) -> ThresholdArguments:
        if (value.threshold is None) == (value.undo is None):
            raise ValueError("give threshold, or undo: true")
        return value


class Pause(Request):
    """Judge no parts: every one is `unknown`, reason `paused`, until `resume`, over restarts too."""

    command: Literal["pause"]
    arguments: NoArguments = NoArguments()


class Resume(Request):
    """Judge parts again."""

    command: Literal["resume"]
    arguments: NoArguments = NoArguments()


class Snapshot(Request):
    """The next frame of the camera, whole and lossless, on the `frame` topic."""

    command: Literal["snapshot"]
    arguments: NoArguments = NoArguments()


class SelfTest(Request):
    """The bundle's golden set on the engine in service, one image between two parts."""

    command: Literal["self_test"]
    arguments: NoArguments = NoArguments()


class ReloadModel(Request):
    """Another bundle judges, once it is verified, proved on this device, and compared where that is asked for."""

    command: Literal["reload_model"]
    arguments: ReloadArguments

    @field_validator("arguments")
    @classmethod
    def _is_one(cls, value: ReloadArguments) -> ReloadArguments:
        if (value.path is None) == (value.version is None):
            raise ValueError("give path, or version")
        return value


class Rollback(Request):
    """The bundle before judges again."""

    command: Literal["rollback"]
    arguments: RollbackArguments = RollbackArguments()


class SetRoi(Request):
    """Look at another part of the frame, from the next part on, until another bundle comes."""

    command: Literal["set_roi"]
    arguments: RoiArguments

    @field_validator("arguments")
    @classmethod
    def _is_one(cls, value: RoiArguments) -> RoiArguments:
        given = [side is not None for side in (value.x, value.y, value.width, value.height)]
        if any(given) == (value.undo is not None) or any(given) != all(given):
            raise ValueError("give x, y, width and height, or undo: true")
        return value


Command = SetThreshold | Pause | Resume | Snapshot | SelfTest | ReloadModel | Rollback | SetRoi
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Discriminator("command")])
KNOWN = tuple(get_args(kind.model_fields["command"].annotation)[0] for kind in get_args(Command))


class Refusal(NamedTuple):
    """Why a command has no effect: the reason for programs, and the sentence for people."""

    reason: AckReason
    detail: str


class Parsed(NamedTuple):
    """What could be read: `command_id` where it can be answered, and exactly one of the last two."""

    command_id: str | None = None
    command: str | None = None  # one of KNOWN
    issued_by: str | None = None
    digest: str = ""  # of the content, whatever the order of its fields: tells a repetition from another command
    request: Command | None = None
    refusal: Refusal | None = None


def parse(payload: bytes) -> Parsed:
    """Any bytes to a command or a refusal; never an exception."""
    value = read_object(payload)
    if isinstance(value, str):
        return Parsed(refusal=Refusal("malformed", value))
    verb = value.get("command")
    try:
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        return Parsed(refusal=Refusal("malformed", "It is nested too deeply."))
    read = Parsed(
        command_id=_identifier(value.get("command_id")),
        command=verb if isinstance(verb, str) and verb in KNOWN else None,
        issued_by=_identifier(value.get("issued_by")),
        digest=digest,
    )
    if isinstance(verb, str) and verb not in KNOWN:
        detail = f"This version doesn't know this command. It knows {', '.join(KNOWN)}."
        return read._replace(refusal=Refusal("unknown_command", detail))
    try:
        return read._replace(request=COMMANDS.validate_python(value))
    except ValidationError as error:
        return read._replace(refusal=Refusal("malformed", _explain(error.errors(include_url=False)[0])))


def moment(text: str) -> datetime:
    """RFC 3339 in UTC to a moment; ValueError where it is none. Python 3.10 reads no Z by itself."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    read = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S")
    return read.replace(microsecond=int(f"{fraction:0<6}"[:6]), tzinfo=timezone.utc)


def _identifier(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(IDENTIFIER[1:-1], value) else None


def _explain(error: ErrorDetails) -> str:
    """Which field, and what would be right; names and values that were sent are not repeated."""
    if error["type"] == "extra_forbidden":
        return "It has a field that this command doesn't have. docs/messages.md shows the fields."
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):  # pydantic would repeat what was sent
        return "The message: command is not one word. docs/messages.md shows the commands."
    where = ".".join(str(part) for part in error["loc"] if part not in KNOWN)
    message = error["msg"].removeprefix("Value error, ")
    return f"{where or 'The message'}: {message[0].upper()}{message[1:]}."
