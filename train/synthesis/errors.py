class SynthesisError(RuntimeError):
    """A job failed underway; the message says what is written already and how to go on."""
