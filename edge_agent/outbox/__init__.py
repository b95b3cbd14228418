"""What leaves the device, kept until the broker has acknowledged it."""

from edge_agent.outbox.file import Message, Row
from edge_agent.outbox.outbox import NO_COUNT, Evicted, Outbox, OutboxError

__all__ = ["NO_COUNT", "Evicted", "Message", "Outbox", "OutboxError", "Row"]
