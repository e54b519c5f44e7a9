"""JSON of others, which may say anything: nested without end, or text where a count belongs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["MOST_BYTES", "RESTORE", "TooLargeError", "parse_json", "read_small", "require_types", "too_large"]

MOST_BYTES: Final = 1 << 28
"""Of a file that is read whole: several times the largest tokenizer.json in use, or an index of 500,000 shards. Parsing
one takes a multiple of its size in memory."""
RESTORE: Final = "check what has written it, and restore it"
"""What to do about a file that is too large."""
_LARGEST = 1 << 62


def parse_json(text: str | bytes) -> Any:
    """What a text says; `json.loads` would raise a `RecursionError` for one that is nested too deeply.

    Raises:
        ValueError: It is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("objects or lists are nested too deeply") from None


class TooLargeError(ValueError):
    """A file is far larger than any of its kind; the message says its size and the bound."""


def too_large(num_bytes: int, most: int) -> TooLargeError:
    """The error for a file of `num_bytes`, of which `most` are allowed."""
    return TooLargeError(f"it has {num_bytes:,} bytes, and {most:,} are the most that such a file may have")


def read_small(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The content of a file, of which no more than `most` bytes are read.

    Raises:
        TooLargeError: It is larger.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        # A file may grow, and that of a device has no size: what is read is bounded, too.
        if (size := os.fstat(file.fileno()).st_size) > most or len(content := file.read(most + 1)) > most:
            raise too_large(max(size, most + 1), most)
    return content


def require_types(instance: Any) -> None:
    """Raise unless the fields of a dataclass, and of those in it, hold what their types say; whole numbers count.

    Raises:
        TypeError: One does not; names it.
    """
    for name, hint in _hints(type(instance)).items():
        if not _fits(value := getattr(instance, name), hint):
            raise TypeError(f"{name} is {_shown(value)}")


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if name in _names(kind)}


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911
    origin, within = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in {Union, types.UnionType}:
        return any(_fits(value, each) for each in within)
    if origin is Literal:
        return value in within
    if origin in {tuple, list}:
        return isinstance(value, origin) and all(_fits(each, within[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, within[0]) and _fits(under, within[1]) for key, under in value.items()
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    if not isinstance(value, origin or hint):
        return False
    if dataclasses.is_dataclass(hint):
        require_types(value)
    return True


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}..."
