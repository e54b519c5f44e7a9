"""Fields of a record, read by name: what is of the wrong kind is an error with its place, what is not read is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from meap.json_text import parse_json

__all__ = ["Fields", "RecordError", "short"]

_SHOWN_CHARACTERS = 60


class RecordError(Exception):
    """Why a record is left out; counted, and shown to users as a warning."""


class Fields:
    """A record or an object in it, which knows what of it has been read.

    Args:
        values: The object; null is the same as absent, since a column of parquet gives every object the fields of all.
        place: Where it is, for errors, such as "turn 2 of 'messages'"; empty for the record.
        name: What precedes its fields in `unread`, such as "messages[]."; empty for the record.

    Raises:
        RecordError: It is not an object.
    """

    def __init__(self, values: Any, place: str = "", name: str = "") -> None:
        if not isinstance(values, Mapping):
            raise RecordError(f"{place} is not an object but {_kind_of(values)}")
        self._values = cast("Mapping[str, Any]", values)
        self._read: set[str] = set()
        self._json: set[str] = set()
        """Fields that hold JSON in a string."""
        self._left: list[str] = []
        self._below: list[Fields] = []
        self._place = place
        self._name = name
        self.is_exact = False
        """Whether it was stored as JSON in a string, where a null is meant and not what a column adds."""

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def has(self, key: str) -> bool:
        """Whether the field is there, be it null."""
        return key in self._values

    def is_empty(self, key: str) -> bool:
        """Whether the field is absent, null, or an empty string, list or object."""
        value = self._values.get(key)
        return value is None or value in ("", [], {})

    def is_text(self, key: str) -> bool:
        """Whether the field is a string or list that is not empty."""
        return isinstance(self._values.get(key), str | list) and not self.is_empty(key)

    def take_same(self, key: str, text: str) -> None:
        """Count a field as read if it says what has been read elsewhere."""
        if self._values.get(key) == text:
            self._read.add(key)

    def leave(self, key: str) -> None:
        """Count a field as unread, whatever it holds."""
        self._left.append(key)

    def objects(self, found: Any, key: str, noun: str) -> list[Fields]:
        """The objects that a field holds: those of a list, or a single one.

        Args:
            found: What has been read of it; an element of a list may be stored as JSON in a string.
            key: The field.
            noun: What an element is called.
        """
        within = f" in {self._place}" if self._place else ""
        if not isinstance(found, list):
            return [self._object(found, f"{key!r}{within}", key, f"{self._name}{key}.")]
        return [
            self._object(each, f"{noun} {number} of {key!r}{within}", key, f"{self._name}{key}[].")
            for number, each in enumerate(cast("list[Any]", found), 1)
        ]

    def _object(self, value: Any, place: str, key: str, name: str) -> Fields:
        below = Fields(self.from_json(value, key) if isinstance(value, str) else value, place, name)
        below.is_exact = self.is_exact or key in self._json
        self._below.append(below)
        return below

    def rest(self, *, but: str) -> dict[str, Any]:
        """All fields except one, which count as read."""
        self._read.update(self._values)
        return {key: value for key, value in self._values.items() if key != but}

    def get(self, key: str) -> Any:
        """A field, which counts as read; None if it is absent."""
        self._read.add(key)
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            RecordError: It is something else, or absent and there is no default.
        """
        value = self.get(key)
        if value is None and default is not None:
            return default
        if key not in self._values:
            raise self.error(f"no field {key!r}")
        if not isinstance(value, str):
            raise self.error(f"field {key!r} is not a string but {_kind_of(value)}")
        return value

    def parsed(self, key: str) -> Any:
        """A list or object, which may be stored as JSON in a string; None if it is absent or empty.

        Raises:
            RecordError: It is neither, or a string that is not JSON.
        """
        value = self.get(key)
        if isinstance(value, str) and value.strip():
            value = self.from_json(value, key)
        if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
            return None
        if not isinstance(value, list | dict):
            raise self.error(f"field {key!r} is not a list or an object but {short(value)} ({_kind_of(value)})")
        return cast("Any", value)

    def from_json(self, text: str, key: str) -> Any:
        """What the JSON in a field says.

        Raises:
            RecordError: It is not JSON, or has half a character, which no tokenizer encodes.
        """
        self._json.add(key)
        try:
            found = parse_json(text)
        except ValueError as error:
            raise self.error(f"field {key!r} is a string that is not JSON: {short(text)}") from error
        if "\\u" in text:
            try:
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])
                raise self.error(f"field {key!r} has half a character, {half}: repair it, or take it out") from error
        return found

    def unread(self) -> Iterator[str]:
        """Names of the fields that carry text and have not been read, with those of all objects below."""
        yield from (f"{self._name}{key}" for key in self._left)
        for key, value in self._values.items():
            if key not in self._read and _carries_text(value):
                yield f"{self._name}{key}"
        for each in self._below:
            yield from each.unread()

    def error(self, reason: str) -> RecordError:
        """An error about this object."""
        return RecordError(f"{self._place}: {reason}" if self._place else reason)


def _kind_of(value: Any) -> str:
    """What a value is, for errors."""
    if value is None:
        return "null"
    return "empty" if isinstance(value, str | list | dict) and not value else type(value).__name__


def short(value: Any) -> str:
    """A value for an error, cut to a length that can be read."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."


def _carries_text(value: Any) -> bool:
    """Whether a string, list or object holds anything."""
    return isinstance(value, str | list | Mapping) and _holds_anything(value)


def _holds_anything(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, Mapping):
        return any(map(_holds_anything, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, list):
        return any(map(_holds_anything, cast("list[Any]", value)))
    return value is not None
