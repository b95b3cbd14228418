"""What a trigger's message looks like, and how bytes from anywhere become one, or a sentence why they don't."""

from datetime import datetime

from pydantic import Field, ValidationError, field_validator

from edge_agent.commands.requests import Identifier, Section, moment
from edge_agent.strict_json import read_object


class TriggerRequest(Section):
    """A part is there: one message for each. Never retained."""

    trigger_id: Identifier = Field(
        description="The sender's own, never used twice (a counter, a UUID): the same id again is `duplicate`."
    )
    part: Identifier | None = Field(
        default=None, description="The part's id, where the sender knows it; the same one again is `duplicate`."
    )
    product: Identifier | None = Field(
        default=None, description="Which of the agent's `products` judges it; null: its `bundle`."
    )
    issued_at: str | None = Field(
        default=None,
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$",
        description="RFC 3339, UTC with Z: when the part was there. A trigger that took longer than `parts.window_ms` "
        "to arrive is `late`, where the device's clock is disciplined.",
    )

    @field_validator("issued_at")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            moment(value)
        return value

    @property
    def issued(self) -> datetime | None:
        return None if self.issued_at is None else moment(self.issued_at)


def parse_trigger(payload: bytes) -> TriggerRequest | str:
    """A sentence where it is none; it repeats nothing of what was sent. Never an exception."""
    value = read_object(payload)
    if isinstance(value, str):
        return value
    try:
        return TriggerRequest.model_validate(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        if wrong["type"] == "extra_forbidden":
            return "It has a field that no trigger has. docs/messages.md shows the fields."
        message = wrong["msg"].removeprefix("Value error, ")
        return f"{'.'.join(map(str, wrong['loc'])) or 'The message'}: {message[0].upper()}{message[1:]}."
