"""What `export` says when it stops: the message is a sentence, with what to do."""


class ExportError(RuntimeError):
    """The work failed or its result was refused; nothing was written. Exit code 1."""


class InputError(ValueError):
    """What the user gave can't be used. Exit code 2."""
