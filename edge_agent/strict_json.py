"""JSON from anywhere, strictly: one object, each field once, no NaN."""

import json
from typing import Any


def read_object(payload: bytes) -> dict[str, Any] | str:
    """Any bytes to an object; a sentence, which repeats nothing of them, where they are none. Never an exception."""
    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return "It is not JSON in UTF-8 with each field once."
    return value if isinstance(value, dict) else "It is not a JSON object."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
