"""What a detector adds to the report of its runs."""

from typing import NamedTuple


class Section(NamedTuple):
    """A heading, sentences below it, drawings and pictures."""

    heading: str
    notes: tuple[str, ...] = ()
    drawings: tuple[str, ...] = ()  # <svg> elements
    pictures: tuple[tuple[str, str], ...] = ()  # (data: address, what it shows)
