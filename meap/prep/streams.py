"""Streams: a corpus divided into data sets by a field of its documents, and the names of their folders."""

from __future__ import annotations

import hashlib
import re

from meap.errors import BadInputError
from meap.schema import TOKENIZER_DIR, TRAIN_SPLIT, VALIDATION_SPLIT

__all__ = ["MAX_STREAMS", "StreamNames", "stream_name"]

MAX_STREAMS = 100
"""Most streams of a job: each holds a shard in memory while it is filled."""
_HASH_DIGITS = 16
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")
_RESERVED = {TRAIN_SPLIT, VALIDATION_SPLIT, TOKENIZER_DIR}
"""Names of a data set's own folders."""


def stream_name(value: str) -> str:
    """Name of the stream for a field's value, of [A-Za-z0-9_-]; different values have different names.

    A value of these characters is its own name, unless it looks like a name with a hash, which all others get.
    """
    if _PLAIN.fullmatch(value) and not _HASHED.fullmatch(value) and value not in _RESERVED:
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{re.sub('[^A-Za-z0-9_-]+', '_', value)[:40].strip('_') or 'stream'}-{digest}"


class StreamNames:
    """The streams that a task has met.

    Args:
        key: Field they are named by, for the error message.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._names: dict[str, str] = {"": ""}

    def name_of(self, value: str, place: str) -> str:
        """Name of the stream for a value.

        Args:
            value: Of the field; empty if there are no streams.
            place: File and line, for the error message.

        Raises:
            BadInputError: There are too many values.
        """
        if (name := self._names.get(value)) is not None:
            return name
        if len(self._names) > MAX_STREAMS:
            some = ", ".join(list(self._names)[1:4])
            raise BadInputError(
                f"{place}: stream_key={self._key} has more than {MAX_STREAMS} different values ({some}, ...), and each "
                "would be a data set: choose a field that names sources, not documents"
            )
        return self._names.setdefault(value, stream_name(value))
