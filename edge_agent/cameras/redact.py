"""Passwords out of what people read: names, errors and logs."""

import re

_LOGIN = re.compile(r"(?<=://)[^/\s\"']*@")
_QUERY = re.compile(r"(://[^\s\"'?]*\?)[^\s\"']+")
_PROPERTY = re.compile(
    r"\b([\w-]*(?:pw|pass|password|secret|token|user|key)[\w-]*\s*=\s*)(\"[^\"]*\"|'[^']*'|\S+)", re.I
)


def redact(text: str) -> str:
    """Without logins and queries of addresses, and without the values of properties that sound like a login."""
    return _PROPERTY.sub(r"\1***", _QUERY.sub(r"\1***", _LOGIN.sub("***@", text)))
