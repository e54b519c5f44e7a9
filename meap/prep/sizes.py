"""Sizes as users write them."""

from __future__ import annotations

import re

from meap.errors import ConfigError

__all__ = ["bytes_of_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(b|kb|mb|gb)?")
_UNITS = {None: 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def bytes_of_size(size: str, *, key: str = "shard_size") -> int:
    """Bytes of a size such as 64mb.

    Raises:
        ConfigError: It is none; the message names `key`.
    """
    match = _SIZE.fullmatch(size.lower())
    if match is None:
        raise ConfigError(f"{key}={size!r} is not a size: write for example 64mb")
    return int(float(match.group(1)) * _UNITS[match.group(2)])
