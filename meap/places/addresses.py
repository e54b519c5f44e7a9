"""Paths and URLs as users write them, and the one endpoint of S3."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from meap.errors import ConfigError
from meap.extras import require_filesystem

__all__ = [
    "is_url",
    "relative_to",
    "require_plain_url",
    "use_one_s3_endpoint",
    "without_file_scheme",
]

_ENDPOINT_VARIABLES = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
_QUERY = re.compile(r"\?[^/]*=")


def use_one_s3_endpoint() -> None:
    """Set the S3 endpoint for every library if it is set for one; entry points call this first.

    Streaming and Composer read ``S3_ENDPOINT_URL``; s3fs (datatrove) and boto3 read ``AWS_ENDPOINT_URL`` and would
    otherwise connect to AWS without a warning. Changes this process's environment, which its children inherit.

    Raises:
        ConfigError: Both are set and differ.
    """
    endpoints = {os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)}
    if len(endpoints) > 1:
        raise ConfigError(
            f"{' and '.join(_ENDPOINT_VARIABLES)} name two different S3 stores: unset one of them; it is "
            "then copied from the other"
        )
    for endpoint in endpoints:
        for name in _ENDPOINT_VARIABLES:
            os.environ[name] = endpoint
    # A machine's role is asked for its keys by all ranks and workers at once: boto would give up after one second.
    os.environ.setdefault("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "3")


def is_url(location: str) -> bool:
    """Whether `location` is a URL rather than a local path."""
    return "://" in location


def relative_to(location: str) -> str:
    """The current folder in parentheses if `location` is relative, for errors; else empty."""
    return "" if is_url(location) or location.startswith(("/", "~")) else f" (in {Path.cwd()})"


def without_file_scheme(location: str) -> str:
    """`location` without ``file://``, which not every library reads; anything else unchanged."""
    return location.removeprefix("file://") if location.startswith("file:///") else location


def require_plain_url(key: str, location: str) -> None:
    """Raise `ConfigError` if `location` is a URL with a password or a query, since configurations are stored.

    The message does not repeat the URL. Raise `MissingPackageError` if the package for such URLs is not installed.
    """
    if not is_url(location):
        return
    parts = urlsplit(location)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{key} is a URL with a user or password in it, which would be stored with the data: remove "
            "the part before the @ and set credentials in the environment"
        )
    if _QUERY.search(location) or (parts.scheme in {"http", "https"} and "?" in location):
        raise ConfigError(
            f"{key} is a URL with a query (?...), which may hold a key and would be stored with the data: remove the "
            "query and set credentials in the environment"
        )
    require_filesystem(location, key=key)
