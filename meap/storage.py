"""Remote storage: one endpoint for every library, and no secrets in URLs and command lines."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from meap.errors import ConfigError
from meap.extras import require_filesystem

__all__ = [
    "clean_arguments",
    "describe_error",
    "describe_full_disk",
    "is_full_disk",
    "is_url",
    "relative_to",
    "require_plain_url",
    "use_one_s3_endpoint",
    "without_file_scheme",
]

_ENDPOINT_VARIABLES = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN")
_MAX_DESCRIPTION = 240
_QUERY = re.compile(r"\?[^/]*=")
_SECRET = re.compile(r"(key|token|secret|password|passwd|credential)s?$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_WHOLE_QUERY = re.compile(r"\?\S*")
_HIDDEN = "***"


def use_one_s3_endpoint() -> None:
    """Make an S3 endpoint that is set for some libraries hold for all: call it first in an entry point's run function.

    Streaming and Composer read ``S3_ENDPOINT_URL``; s3fs (datatrove) and boto3 read ``AWS_ENDPOINT_URL`` and would
    otherwise talk to Amazon in silence. Changes this process's environment, which its children inherit.

    Raises:
        ConfigError: Both are set, and differ.
    """
    endpoints = {os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)}
    if len(endpoints) > 1:
        raise ConfigError(
            f"{' and '.join(_ENDPOINT_VARIABLES)} name two different S3 stores: unset one of them, it is filled in "
            "from the other"
        )
    for endpoint in endpoints:
        for name in _ENDPOINT_VARIABLES:
            os.environ[name] = endpoint


def is_url(location: str) -> bool:
    """Whether `location` is a URL rather than a local path."""
    return "://" in location


def relative_to(location: str) -> str:
    """For errors: the folder that a relative path is below, which need not be the one that was meant."""
    return "" if is_url(location) or location.startswith(("/", "~")) else f" (in {Path.cwd()})"


def without_file_scheme(location: str) -> str:
    """A local path for what is given as ``file://``, which not every library reads; all else as it is."""
    return location.removeprefix("file://") if location.startswith("file:///") else location


def require_plain_url(key: str, location: str) -> None:
    """Raise `ConfigError` if `location` is a URL with a password or a query, since configurations are stored.

    The message does not repeat the URL. Where what reads such URLs is not installed, that is a `MissingPackageError`.
    """
    if not is_url(location):
        return
    parts = urlsplit(location)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{key} is a URL with a user or password in it, which would be stored with the data: leave out what stands "
            "before the @ and give credentials through the environment"
        )
    if _QUERY.search(location) or (parts.scheme in {"http", "https"} and "?" in location):
        raise ConfigError(
            f"{key} is a URL with a query (?...), which may hold a key and would be stored with the data: leave the "
            "query out and give credentials through the environment"
        )
    require_filesystem(location, key=key)


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
    """Type and first line of what a library has raised, without the secrets of the environment."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    for variable in _SECRET_VARIABLES:
        if secret := os.environ.get(variable):
            text = text.replace(secret, "***")
    return text if len(text) <= _MAX_DESCRIPTION else text[:_MAX_DESCRIPTION] + "..."


def is_full_disk(error: BaseException) -> bool:
    """Whether `error` says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def describe_full_disk(location: str | Path, *, num_bytes: int | None = None) -> str:
    """What there is no space for, how much that is where it is known, and how much space there is."""
    place = Path(location).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    needed = "" if num_bytes is None else f"{num_bytes:,} bytes needed, "
    return f"no space left for {location} ({needed}{shutil.disk_usage(place).free:,} bytes free on its disk)"
