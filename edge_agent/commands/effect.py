"""What a command does once it is accepted, and what is said when it has come to its end."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from edge_agent.messages import AckReason, Commanded
from edge_agent.outbox import Message

NOTHING: Mapping[str, bytes | None] = {}


class Effect(NamedTuple):
    """Of an accepted command.

    kept: what the outbox keeps in the transaction that accepts it. outcome: how it will have ended, where that is known
    by now; a restart makes up for it. begin: called after the transaction; the number of the orders of Control after
    which the outcome may be told, None where `Finished` tells it.
    """

    begin: Callable[[], int | None]
    kept: Mapping[str, bytes | None] = NOTHING
    outcome: Commanded | None = None


class Finished(NamedTuple):
    """A command's end, with what else becomes durable at that moment."""

    command_id: str
    outcome: Commanded
    messages: tuple[Message, ...] = ()
    kept: Mapping[str, bytes | None] = NOTHING


def ended(about: Commanded, reason: AckReason | None, detail: str) -> Commanded:
    """Done; or failed, for a reason."""
    return about.model_copy(update={"status": "failed" if reason else "done", "reason": reason, "detail": detail})
