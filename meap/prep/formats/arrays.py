"""JSON arrays, element by element: only one element is held at a time, whatever the size of the array."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from meap.errors import BadInputError
from meap.prep.formats import records

__all__ = ["array_elements", "is_array"]

_CHUNK_BYTES = 1 << 18
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{}]')
_BETWEEN_ELEMENTS = re.compile(rb'[",\[\]{}]')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_BEGINNING = re.compile(rb"\s*+\[")
_OF_OBJECTS = re.compile(rb"\s*+\[\s*+[{\]]")


def is_array(stream: io.BufferedReader, *, of_objects: bool) -> bool:
    """Whether a file begins as a JSON array; reads nothing of it.

    Args:
        stream: The file, at its beginning.
        of_objects: Whether its first element, if there is one, must be an object.
    """
    return (_OF_OBJECTS if of_objects else _BEGINNING).match(stream.peek(1)) is not None


def array_elements(stream: io.BufferedReader, name: str) -> Iterator[bytes | records.BadRecord]:
    """The JSON of each element, not yet parsed; `too_long` for one that is.

    Args:
        stream: An array, at its beginning.
        name: Of the file, for the error.

    Raises:
        BadInputError: Something follows the array.
        EOFError: It has no end.
    """
    scanner = _Scanner()
    for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""):
        yield from scanner.elements(chunk)
        if scanner.rest.strip():
            raise BadInputError(
                f"{name}: {scanner.rest.strip()[:40]!r} follows the JSON array after element {scanner.number:,}: write "
                "the records as one array, or each on a line of its own"
            )
    if not scanner.is_over:
        raise EOFError(f"the file ends inside a JSON array, after element {scanner.number:,}")


class _Scanner:
    """Finds the elements of an array in chunks; a chunk is looked through once."""

    def __init__(self) -> None:
        self.number = 0
        """Elements found."""
        self.rest = b""
        """What follows the array."""
        self.is_over = False
        self._depth = 0
        self._in_string = False
        self._pending = b""
        """A backslash at the end of a chunk, whose meaning the next one tells."""
        self._element: list[bytes] = []
        """Of the present element: the parts in earlier chunks, and only the first ones of one that is too long."""
        self._size = 0

    def elements(self, chunk: bytes) -> Iterator[bytes | records.BadRecord]:
        """The elements that end in the next chunk."""
        chunk, start, position = self._pending + chunk, 0, 0
        self._pending = b""
        while not self.is_over:
            if self._in_string:
                position = _STRING.match(chunk, position).end()  # type: ignore[union-attr]  # it matches nothing, too
                if position == len(chunk) or chunk[position : position + 1] == b"\\":
                    break
                self._in_string, position = False, position + 1
            found = (_BETWEEN_ELEMENTS if self._depth == 1 else _OUTSIDE_STRINGS).search(chunk, position)
            if found is None:
                position = len(chunk)
                break
            token, position = found[0], found.end()
            if token == b'"':
                self._in_string = True
            elif token != b",":
                self._depth += 1 if token in b"[{" else -1
            if (token == b"," and self._depth == 1) or not self._depth:
                yield from self._ended(chunk[start : found.start()], is_last=not self._depth)
                start = position
            elif self._depth == 1 and token == b"[":  # the array's own
                start = position
            self.is_over = not self._depth
        if self.is_over:
            self.rest = chunk[position:]
        else:
            self._keep(chunk[start:position])
            self._pending = chunk[position:]

    def _ended(self, last_part: bytes, *, is_last: bool) -> Iterator[bytes | records.BadRecord]:
        self._keep(last_part)
        element, size = b"".join(self._element), self._size
        self._element, self._size = [], 0
        if is_last and not self.number and not element.strip():
            return
        self.number += 1
        yield records.too_long(size) if size > records.MAX_RECORD_BYTES else element

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= records.MAX_RECORD_BYTES:
            self._element.append(part)
