"""Remote commands: from bytes on the `cmd` topic to an effect on the line, an answer on `ack`, a line in the audit log.

Every command is refused unless the configuration allows it, and answered once and for all: its id is remembered.
"""
