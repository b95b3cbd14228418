"""What the lowering says when it cannot go on."""


class LoweringError(ValueError):
    """An operation of the model has no ONNX form here; the text names it, its place in the model and what to do."""


class UnsupportedError(Exception):
    """Raised by one operation's lowering with the reason alone; `trace` adds the operation and its place."""
