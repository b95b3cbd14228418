"""What a user can do wrong with published weights."""


class WeightsError(ValueError):
    """A file of weights can't be used; the text says which key or file, what would be right and what to do."""
