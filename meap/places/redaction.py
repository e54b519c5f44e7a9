"""No secrets in what is shown or stored."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["clean_arguments", "describe_error"]

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN")
_MAX_DESCRIPTION = 240
_SECRET = re.compile(r"(key|token|secret|password|passwd|credential)s?$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_WHOLE_QUERY = re.compile(r"\?\S*")
_HIDDEN = "***"


def clean_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without values of keys that look like secrets, and without users and queries in URLs."""
    cleaned: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and _SECRET.search(key):
            value = _HIDDEN
        value = _WHOLE_QUERY.sub(f"?{_HIDDEN}", _USER.sub(f"{_HIDDEN}@", value)) if "://" in value else value
        cleaned.append(f"{key}{equals}{value}" if equals else _USER.sub(f"{_HIDDEN}@", argument))
    return cleaned


def describe_error(error: BaseException) -> str:
    """Type and first line of an error of a library, without the secrets of the environment."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    for variable in _SECRET_VARIABLES:
        if secret := os.environ.get(variable):
            text = text.replace(secret, _HIDDEN)
    return text if len(text) <= _MAX_DESCRIPTION else text[:_MAX_DESCRIPTION] + "..."
